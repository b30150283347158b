"""Merges databases: adds records (`tuning_db.jsonl`) that came from elsewhere.

Adding is a union. What can differ between two databases about one thing is joined by a rule in which neither side
comes first: the earlier of two replacements of a winner, the later of two measurements of a roof, an ended run rather
than a running one. So merging is commutative, associative and idempotent. Of the winners that nothing replaced, the
fastest that this machine has measured is current, and where it has measured none, the fastest.

Every record is checked before it is written; what makes no sense is left out and said. A row of our own that makes no
sense gives way to the record that has its name.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuning_db import jsonl, keys, validation, winner_rows
from tuning_db.rows import canonical_json

Record = Mapping[str, Any]

NOTHING = ""  # sorts before every timestamp


@dataclass(frozen=True)
class Conflict:
    """Two winners of one problem on one device that were never compared; the faster one is kept as the current one."""

    chip: str
    problem: str
    kept_ns: float
    other_ns: float
    kept_ours: bool


@dataclass
class Added:
    """What an addition brought: rows that are new, by table, conflicts that it resolved, and of each record that was
    left out the reason."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("devices", "runs", "trials", "winners"), 0))
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Adder:
    """Adds records within the caller's transaction, in the order of `jsonl.KINDS`. A record that makes no sense, or
    about something that neither came nor is known, is left out."""

    def __init__(self, db: sqlite3.Connection):
        self._db = db
        self._ids: dict[tuple[str, str], int] = {}
        self._touched: dict[tuple[int, int, int], str | None] = {}  # key of a winner → the uid current before
        self._fresh: set[tuple[int, int, int]] = set()  # of those, where a winner came that nothing has replaced
        self.added = Added()

    def add(self, records: Iterable[Record]) -> Added:
        rules: dict[str, Callable[[Record], None]] = {
            "device": self._device, "ceilings": self._ceilings, "space": self._space, "run": self._run,
            "trial": self._trial, "winner": self._winner,
        }  # fmt: skip
        order = list(jsonl.KINDS)
        for record in sorted(self._sensible(records), key=lambda record: order.index(record["kind"])):
            try:
                rules[record["kind"]](record)
            except KeyError as unknown:
                self.added.left_out.append(f"a {record['kind']} speaks of {unknown.args[0]}")
        self._link()
        for key, before in self._touched.items():
            self._choose(key, before)
        return self.added

    def _sensible(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            try:
                yield jsonl.check(dict(record))
            except ValueError as error:
                self.added.left_out.append(str(error))

    def _device(self, record: Record) -> None:
        row = {name: value for name, value in record.items() if name != "kind"}
        if self._insert("devices", {**row, "versions": canonical_json(record["versions"])}, ("fingerprint",)):
            self.added.rows["devices"] += 1
        else:
            self._db.execute(
                "UPDATE devices SET first_seen_at = min(first_seen_at, ?) WHERE fingerprint = ?",
                (record["first_seen_at"], record["fingerprint"]),
            )

    def _ceilings(self, record: Record) -> None:
        device = self._id("devices", "fingerprint", record["device"])
        known = []
        for name, value, when in self._db.execute(
            "SELECT name, value, measured_at FROM device_ceilings WHERE device_id = ?", (device,)
        ):
            if _makes_sense("device_ceilings", {"name": name, "value": value, "measured_at": when}):
                known.append((name, value, when))
        ours = (max((when for *_, when in known), default=NOTHING), canonical_json({n: v for n, v, _ in known}))
        if (record["measured_at"], canonical_json(record["values"])) > ours:
            self._db.execute("DELETE FROM device_ceilings WHERE device_id = ?", (device,))
            for name, value in record["values"].items():
                row = {"device_id": device, "name": name, "value": value, "measured_at": record["measured_at"]}
                self._insert("device_ceilings", row)

    def _space(self, record: Record) -> None:
        texts = {name: canonical_json(record[name]) for name in ("parameters", "constraints")}
        self._insert("spaces", {"uid": record["uid"], **texts}, ("uid",))

    def _run(self, record: Record) -> None:
        own = ("template_version", "sampler", "seed", "space_size", "work_bytes", "work_ops", "host", "pid")
        row = {
            "uid": record["uid"],
            "device_id": self._id("devices", "fingerprint", record["device"]),
            "problem_id": self._problem(record["problem"]),
            "space_id": None if record["space"] is None else self._id("spaces", "uid", record["space"]),
            "run_versions": canonical_json(record["versions"]),
            **{name: record[name] for name in (*own, "objective", "status", "started_at", "finished_at")},
        }
        if self._insert("runs", row, ("uid",)):
            self.added.rows["runs"] += 1
            return
        status, finished = self._db.execute(
            "SELECT status, finished_at FROM runs WHERE uid = ?", (record["uid"],)
        ).fetchone()
        if (record["finished_at"] or NOTHING, record["status"]) > (finished or NOTHING, status):
            self._db.execute(
                "UPDATE runs SET status = ?, finished_at = ? WHERE uid = ?",
                (record["status"], record["finished_at"], record["uid"]),
            )

    def _trial(self, record: Record) -> None:
        run = self._id("runs", "uid", record["run"])
        row = {name: value for name, value in record.items() if name not in ("kind", "run", "trial_kind")}
        whole = {**row, "kind": record["trial_kind"], "run_id": run, **_texts(record)}
        if self._insert("run_trials", whole, ("run_id", "number")):
            self.added.rows["trials"] += 1

    def _winner(self, record: Record) -> None:
        device = self._id("devices", "fingerprint", record["device"])
        key = (device, self._problem(record["problem"]), record["template_version"])
        if key not in self._touched:
            found = self._db.execute(
                "SELECT uid FROM winners WHERE device_id = ? AND problem_id = ? AND template_version = ? AND current",
                key,
            ).fetchone()
            self._touched[key] = found[0] if found else None
        row = {name: value for name, value in record.items() if name not in ("kind", "device", "problem", "versions")}
        ids = {"device_id": key[0], "problem_id": key[1], "current": 0}
        texts = {**_texts(record), "winner_versions": canonical_json(record["versions"])}
        if self._insert("winners", {**row, **ids, **texts}, ("uid",)):
            self.added.rows["winners"] += 1
            if record["replaced_at"] is None:
                self._fresh.add(key)
        elif record["replaced_at"] is not None:
            self._db.execute(
                "UPDATE winners SET replaced_at = min(coalesce(replaced_at, ?1), ?1) WHERE uid = ?2",
                (record["replaced_at"], record["uid"]),
            )

    def _link(self) -> None:
        """Winners that came before their run find it now."""
        self._db.execute(
            "UPDATE winners SET run_id = (SELECT id FROM runs r WHERE r.uid = winners.run_uid) "
            "WHERE run_id IS NULL AND run_uid IN (SELECT uid FROM runs)"
        )
        self._db.execute(
            "UPDATE winners SET trial_id = (SELECT id FROM run_trials t WHERE t.run_id = winners.run_id "
            "AND t.number = winners.trial_number) "
            "WHERE trial_id IS NULL AND run_id IS NOT NULL AND trial_number IS NOT NULL"
        )

    def _choose(self, key: tuple[int, int, int], before: str | None) -> None:
        living = winner_rows.choose_current(self._db, key)
        if not living:
            return
        best, best_ns = living[0]
        others = [ns for uid, ns in living[1:] if best == before or uid == before]
        if others and key in self._fresh:
            chip = self._db.execute("SELECT chip FROM devices WHERE id = ?", key[:1]).fetchone()[0]
            problem = self._db.execute("SELECT key FROM problems WHERE id = ?", key[1:2]).fetchone()[0]
            self.added.conflicts.append(Conflict(chip, problem, best_ns, others[0], best == before))

    def _problem(self, key: str) -> int:
        self._insert("problems", keys.row(key))
        return self._id("problems", "key", key)

    def _id(self, table: str, column: str, name: str) -> int:
        if (table, name) not in self._ids:
            found = self._db.execute(f"SELECT id FROM {table} WHERE {column} = ?", (name,)).fetchone()
            if found is None:
                raise KeyError(f"the {table[:-1]} {name}, which is not known")
            self._ids[table, name] = found[0]
        return self._ids[table, name]

    def _insert(self, table: str, row: Mapping[str, Any], names: tuple[str, ...] = ()) -> bool:
        """Whether it was new. names: the columns that name a row of this table everywhere; a row of that name that
        makes no sense is replaced."""
        marks = ", ".join(f":{name}" for name in row)
        cursor = self._db.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) ON CONFLICT DO NOTHING", dict(row)
        )
        if cursor.rowcount == 1:
            return True
        if not names:
            return False
        where = " AND ".join(f"{name} = :{name}" for name in names)
        found = self._db.execute(f"SELECT * FROM {table} WHERE {where}", dict(row))
        columns = [column[0] for column in found.description]
        known = found.fetchone()
        if known is None or _makes_sense(table, dict(zip(columns, known, strict=True)), stored=True):
            return False
        changes = ", ".join(f"{name} = :{name}" for name in row)
        self._db.execute(f"UPDATE {table} SET {changes} WHERE {where}", dict(row))
        return True


def _makes_sense(table: str, row: Mapping[str, Any], stored: bool = False) -> bool:
    try:
        (validation.row if stored else validation.check)(table, row)
    except ValueError:
        return False
    return True


def _texts(record: Record) -> dict[str, str | None]:
    """What a trial or a winner has as JSON, as its table has it."""
    state = record["state"]
    return {"config": canonical_json(record["config"]), "state": None if state is None else canonical_json(state)}
