"""Lookups in microseconds: answers and the sizes of winners are kept in memory until a winner changes.

SQLite says in a microsecond or two whether anybody has written to the file since; the table `winners_state` says
whether that concerned winners. A tuning run beside a reader writes trials all the time and winners rarely.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from kernel_templates.device import Device
from tuning_db import keys, lookup, rows, shipped, validation
from tuning_db.records import Lookup, Source
from tuning_db.rows import Row, canonical_json

_COLUMNS = (
    "SELECT w.*, p.key AS problem, d.fingerprint, d.chip_key, d.backend, d.chip, d.capability, d.units, "
    "d.memory_bytes, d.versions, d.first_seen_at FROM winners w JOIN devices d ON d.id = w.device_id "
    "JOIN problems p ON p.id = w.problem_id "
)

Refused = Mapping[str, Sequence[Mapping[str, Any]]]
"""By problem, configurations that are no answer."""
Query = Callable[[str, Sequence[Any]], list[dict[str, Any]]]


class Family:
    """This chip's winners of problems that differ in sizes only, the user's own first, then shipped ones."""

    def __init__(self, entries: Sequence[tuple[int, str, str, bytes]], from_shipped: Sequence[Row]):
        """entries: (id, problem, fingerprint, `keys.logs`) of the user's own."""
        self.entries, self.from_shipped = entries, from_shipped
        packed = [entry[3] for entry in entries] + [keys.logs(row["problem"]) for row in from_shipped]
        self._logs = np.frombuffer(b"".join(packed), "<f8").reshape(len(packed), -1) if packed else None

    def without(self, found: int | Row) -> "Family":
        """Without an id, or a shipped row."""
        entries = [entry for entry in self.entries if entry[0] != found]
        return Family(entries, [row for row in self.from_shipped if row is not found])

    def nearest(self, problem: str, fingerprint: str) -> tuple[int | Row, float] | None:
        """The id, or the shipped row, and how many doublings away it is; of kernels with several tokens at once none
        that is too far from this one (`keys.WIDEST_STEP` and what follows it)."""
        if self._logs is None:
            return None
        wanted, counts = np.frombuffer(keys.logs(problem), "<f8"), keys.widths(problem)
        apart = self._logs - wanted
        away = np.sqrt(np.square(apart).sum(1))
        away[~np.isfinite(away)] = np.inf  # of a stored size that makes no sense
        if counts:
            step = np.abs(apart[:, counts])
            few = np.minimum(self._logs[:, counts], wanted[counts]) < math.log2(keys.LEAST_BORROWED + 1)
            away[((step > keys.WIDEST_STEP) | few & (step > 0)).any(1) | (away > keys.FARTHEST)] = np.inf
        closest, ties = float(away.min()), []
        if closest == np.inf:
            return None
        # Equal distances: the user's own, this very device first, then the alphabet, so that the answer is the same.
        for at in np.flatnonzero(away <= closest * (1 + 1e-12)).tolist():
            if at < len(self.entries):
                row_id, name, owner, _ = self.entries[at]
                ties.append((False, owner != fingerprint, name, -row_id, at))
            else:
                ties.append((True, False, self.from_shipped[at - len(self.entries)]["problem"], 0, at))
        best = min(ties)[-1]
        if best < len(self.entries):
            return self.entries[best][0], closest
        return self.from_shipped[best - len(self.entries)], closest


class Finder:
    """Answers `lookup` for one connection. query: reads rows as dictionaries, raising what its owner raises; warn: is
    told the table and the reason of a row that makes no sense and is left out."""

    def __init__(self, db: sqlite3.Connection, query: Query, warn: Callable[[str, str], None]):
        self._db, self._query, self._warn = db, query, warn
        self._seen: tuple[int, Any] = (-1, -1)  # SQLite's data version, the winners' generation
        self._answers: dict[tuple[Device, str, int], Lookup] = {}
        self._families: dict[tuple[str, str, int], Family] = {}

    def forget(self) -> None:
        """Winners have changed through this very connection, which SQLite does not count."""
        self._answers.clear()
        self._families.clear()

    def find_all(self, device: Device, wanted: Sequence[tuple[str, int]], refused: Refused) -> dict[str, Lookup]:
        """Answers by problem key. Those of problems with refused configurations are not kept."""
        self._refresh()
        found = {
            problem: None if refused.get(problem) else self._answers.get((device, problem, version))
            for problem, version in wanted
        }
        missing = [(problem, version) for problem, version in wanted if found[problem] is None]
        if missing:
            for problem, answer in self._find(device, missing, refused).items():
                found[problem] = answer
            for problem, version in missing:
                if not refused.get(problem):
                    self._answers[device, problem, version] = found[problem]  # type: ignore[assignment]
        return found  # type: ignore[return-value]

    def _refresh(self) -> None:
        data_version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if data_version != self._seen[0]:
            found = self._db.execute("SELECT generation FROM winners_state").fetchone()
            generation = found[0] if found else -1
            if generation != self._seen[1]:
                self.forget()
            self._seen = (data_version, generation)

    def _find(self, device: Device, wanted: Sequence[tuple[str, int]], refused: Refused) -> dict[str, Lookup]:
        marks = ",".join("?" * len(wanted))
        current = "" if any(refused.get(problem) for problem, _ in wanted) else "w.current AND "
        same = self._winners(
            _COLUMNS + f"WHERE {current}p.key IN ({marks}) AND d.chip_key = ? ORDER BY w.current DESC, w.id DESC",
            (*(problem for problem, _ in wanted), device.chip_key),
        )
        known = shipped.of_chip(device.chip_key)
        answers = {}
        for problem, version in wanted:
            bad = {canonical_json(dict(config)) for config in refused.get(problem, ())}
            own = [row for row in same if row["problem"] == problem and (row["current"] or bad)]
            pick = (
                lookup.same_problem(device, version, _without(own, bad))
                or lookup.shipped(device, problem, version, _without(known, bad))
                or self._nearest_shape(device, problem, version, known, bad)
                or lookup.nearest_chip(device, version, _without(self.elsewhere(device, problem), bad))
            )
            answers[problem] = (
                Lookup(pick.source, rows.winner_from(pick.row), pick.detail)
                if pick
                else self._nothing(device, problem, version, known)
            )
        return answers

    def _winners(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """Rows of _COLUMNS that make sense."""
        found = []
        for row in self._query(sql, parameters):
            try:
                validation.row("winners", row)
                validation.row("devices", row)
                validation.check("problems", {"key": row["problem"]})
            except ValueError as error:
                self._warn("winners", str(error))
            else:
                found.append(row)
        return found

    def _nearest_shape(
        self, device: Device, problem: str, version: int, known: Sequence[Row], bad: AbstractSet[str]
    ) -> lookup.Pick | None:
        family = keys.family(problem)
        key = (device.chip_key, family, version)
        if key not in self._families:
            devices = {
                row["id"]: row["fingerprint"]
                for row in self._query("SELECT id, fingerprint FROM devices WHERE chip_key = ?", (device.chip_key,))
            }
            own = self._db.execute(
                "SELECT w.id, p.key, w.device_id, p.logs FROM problems p JOIN winners w ON w.problem_id = p.id "
                "WHERE p.family = ? AND w.current AND w.template_version = ?",
                (family, version),
            ).fetchall()
            alike = [r for r in known if keys.family(r["problem"]) == family and r["template_version"] == version]
            size = len(keys.logs(problem))
            near = [
                (i, k, devices[d], logs)
                for i, k, d, logs in own
                if d in devices and isinstance(logs, bytes) and len(logs) == size
            ]
            self._families[key] = Family(near, alike)
        kin = self._families[key]
        while True:
            nearest = kin.nearest(problem, device.fingerprint)
            if nearest is None:
                return None
            found, away = nearest
            # By id, whatever its state: a winner replaced since then was measured all the same.
            usable = self._winners(_COLUMNS + "WHERE w.id = ?", (found,)) if isinstance(found, int) else [found]
            if _without(usable, bad):
                row = usable[0]
                break
            kin = kin.without(found)
            if not usable:
                self._families[key] = self._families[key].without(found)
        beneath = "" if isinstance(found, int) else "shipped with autotune: "
        return lookup.Pick(Source.NEAREST_SHAPE, row, beneath + lookup.shape_detail(problem, row, away))

    def elsewhere(self, device: Device, problem: str) -> list[Row]:
        """Winners of one problem on other chips, the user's own before shipped ones, newest first."""
        own = self._winners(
            _COLUMNS + "WHERE p.key = ? AND w.current AND d.chip_key != ? ORDER BY w.id DESC",
            (problem, device.chip_key),
        )
        others = shipped.of_problem(problem, device.backend)
        return [*own, *(row for row in others if row["chip_key"] != device.chip_key)]

    def _nothing(self, device: Device, problem: str, version: int, known: Sequence[Row]) -> Lookup:
        op = problem.partition(":")[0]
        here: list[Mapping[str, Any]] = list(
            self._query(
                "SELECT w.template_version, p.key AS problem FROM winners w JOIN devices d ON d.id = w.device_id "
                "JOIN problems p ON p.id = w.problem_id WHERE d.chip_key = ? AND p.op = ? AND w.current",
                (device.chip_key, op),
            )
        )
        here += [row for row in known if row["problem"].partition(":")[0] == op]
        return lookup.explain_default(device, problem, version, here, self.elsewhere(device, problem))

    def relatives(self, device: Device, problem: str, version: int) -> list[Row]:
        """Winners of problems of one family on any chip of this backend, from this file and shipped ones, the nearest
        first: by shape, and of one shape this chip's before others'."""
        family, wanted = keys.family(problem), keys.parse(problem)
        own = self._winners(
            _COLUMNS + "WHERE p.family = ? AND w.current AND w.template_version = ? AND d.backend = ?",
            (family, version, device.backend),
        )
        found: Iterable[Row] = [
            *own, *(r for r in shipped.of_family(family, device.backend) if r["template_version"] == version)
        ]  # fmt: skip

        alike = [row for row in found if keys.family(row["problem"]) == family]  # whatever the file says of the key
        return sorted(alike, key=lambda row: (*_far(device, wanted, row), row["median_ns"]))

    def leaders(self, device: Device, problem: str, version: int, most: int) -> list[dict[str, Any]]:
        """Configurations: what was fastest for the nearest of the problems that this file has trials of."""
        wanted = keys.parse(problem)
        tried = self._query(
            "SELECT DISTINCT r.device_id, r.problem_id, p.key AS problem, d.chip, d.capability FROM runs r "
            "JOIN problems p ON p.id = r.problem_id JOIN devices d ON d.id = r.device_id "
            "WHERE p.family = ? AND r.template_version = ? AND d.backend = ? AND (p.key, d.fingerprint) != (?, ?) "
            "AND EXISTS (SELECT 1 FROM run_trials t WHERE t.run_id = r.id AND t.outcome = 'ok')",
            (keys.family(problem), version, device.backend, problem, device.fingerprint),
        )
        tried = [
            row
            for row in tried
            if isinstance(row["problem"], str) and keys.family(row["problem"]) == wanted.family
        ]  # fmt: skip
        if not tried:
            return []
        nearest = min(tried, key=lambda row: _far(device, wanted, row))
        times = self._query(
            "SELECT t.* FROM run_trials t JOIN runs r ON r.id = t.run_id WHERE r.device_id = ? AND "
            "r.problem_id = ? AND r.template_version = ? AND t.outcome = 'ok' ORDER BY t.id",
            (nearest["device_id"], nearest["problem_id"], version),
        )
        last: dict[str, tuple[float, dict[str, Any]]] = {}
        for row in times:
            try:
                trial = rows.trial_from(row)
            except ValueError as error:
                self._warn("run_trials", str(error))
                continue
            if trial.measurement is not None:
                last[row["config"]] = trial.measurement.median_ns, dict(trial.config)  # a rematch counts more
        return [last[text][1] for text in sorted(last, key=lambda text: last[text][0])[:most]]


def _without(rows: Sequence[Row], bad: AbstractSet[str]) -> list[Row]:
    """Rows whose configuration is none of these, in canonical JSON."""
    return [row for row in rows if canonical_json(json.loads(row["config"])) not in bad] if bad else list(rows)


def _far(device: Device, wanted: keys.ProblemKey, row: Row) -> tuple:
    """How far from home something was measured: by shape, and for one shape by chip."""
    chip = row["chip"] != device.chip, row["capability"] != device.capability
    return keys.distance(wanted, keys.parse(row["problem"])), *chip
