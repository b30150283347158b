"""The reading half of the database. One connection, for one thread of one process."""

import sqlite3
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from kernel_templates.device import Device
from tuning_db import migrations, rows, stored_records, validation
from tuning_db.dead_runs import died
from tuning_db.errors import LeftOut, translated
from tuning_db.finder import Finder, Refused
from tuning_db.records import Lookup, Outcome, RunStatus, StoredRun, StoredWinner, Trial, Winner
from tuning_db.sqlite_library import Database

T = TypeVar("T")
PROOF = "proof"  # as sampler: a run that only says that a configuration computes wrongly

_WINNERS = """
    SELECT w.*, p.key AS problem, d.fingerprint, d.chip_key, d.backend, d.chip, d.capability, d.units, d.memory_bytes,
        d.versions, d.first_seen_at
    FROM winners w JOIN devices d ON d.id = w.device_id JOIN problems p ON p.id = w.problem_id
"""


class Reader:
    """The reading half of `TuningDB`. Every method raises DatabaseError when the file fails underneath it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        # Plugins of sqlite-utils are for its command line; none belongs into a lookup.
        self._db = Database(connection, execute_plugins=False)
        self._finder = Finder(connection, self._query, self._warn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with translated(self.path):
            self._connection.close()

    def devices(self) -> list[Device]:
        """Every device ever seen, in the order they came."""
        return self._read("devices", "SELECT * FROM devices ORDER BY id", (), rows.device_from)

    def ceilings(self, device: Device) -> dict[str, float] | None:
        """The measured limits of this very device by name, and `measured_at` in Unix seconds; None when unknown."""
        found = self._read(
            "device_ceilings",
            "SELECT c.name, c.value, c.measured_at FROM device_ceilings c JOIN devices d ON d.id = c.device_id "
            "WHERE d.fingerprint = ? ORDER BY c.name",
            (device.fingerprint,),
            lambda row: validation.row("device_ceilings", row),
        )
        if not found:
            return None
        when = max(datetime.fromisoformat(row["measured_at"]).timestamp() for row in found)
        return {**{row["name"]: float(row["value"]) for row in found}, "measured_at": when}

    def runs(self, device: Device | None = None) -> list[StoredRun]:
        """All runs, newest last, or those of one device. One whose process on this host is gone is interrupted."""
        return self._read(
            "runs",
            "SELECT r.*, p.key AS problem, d.fingerprint, d.chip_key, d.backend, d.chip, d.capability, d.units, "
            "d.memory_bytes, d.versions, d.first_seen_at, (SELECT count(DISTINCT t.config) FROM run_trials t "
            "WHERE t.run_id = r.id AND t.kind = 'search') AS trials "
            "FROM runs r JOIN devices d ON d.id = r.device_id JOIN problems p ON p.id = r.problem_id "
            "WHERE ? IS NULL OR d.fingerprint = ? ORDER BY r.id",
            (device and device.fingerprint,) * 2,
            _run_now,
        )

    def trials(self, run_id: int) -> list[Trial]:
        """The trials of one run, in the order they were made."""
        sql = "SELECT * FROM run_trials WHERE run_id = ? ORDER BY id"
        return self._read("run_trials", sql, (run_id,), rows.trial_from)

    def past_trials(self, device: Device, problem: str, template_version: int) -> list[Trial]:
        """All trials ever made for this problem on this very device, newest last: what a new run need not repeat."""
        return self._read(
            "run_trials",
            "SELECT t.* FROM run_trials t JOIN runs r ON r.id = t.run_id JOIN devices d ON d.id = r.device_id "
            "JOIN problems p ON p.id = r.problem_id "
            "WHERE d.fingerprint = ? AND p.key = ? AND r.template_version = ? ORDER BY t.id",
            (device.fingerprint, problem, template_version),
            rows.trial_from,
        )

    def winners(self, device: Device | None = None, op: str | None = None, history: bool = False) -> list[StoredWinner]:
        """Current winners (with `history`, replaced ones as well), ordered by problem, then by age."""
        fingerprint = device and device.fingerprint
        return self._read(
            "winners",
            _WINNERS + "WHERE (? IS NULL OR d.fingerprint = ?) AND (? IS NULL OR p.op = ?) "
            "AND (? OR w.current) ORDER BY p.key, w.id",
            (fingerprint, fingerprint, op, op, history),
            rows.stored_winner_from,
        )

    def best(self, problem: str) -> list[StoredWinner]:
        """The current winners of one problem on every device that has one, fastest first."""
        return self._read(
            "winners",
            _WINNERS + "WHERE p.key = ? AND w.current ORDER BY w.median_ns, w.id",
            (problem,),
            rows.stored_winner_from,
        )

    def lookup(self, device: Device, problem: str, template_version: int) -> Lookup:
        """Which configuration to launch for one problem, and why that one; see `tuning_db.lookup` for the order."""
        return self.lookup_all(device, [(problem, template_version)])[problem]

    def lookup_all(
        self, device: Device, wanted: Iterable[tuple[str, int]], refused: Refused = MappingProxyType({})
    ) -> dict[str, Lookup]:
        """`lookup` for many (problem, template version) pairs at the cost of about one, keyed by problem. refused:
        configurations that are no answer, by problem; there winners that were replaced are asked as well."""
        with translated(self.path):
            return self._finder.find_all(device, list(wanted), refused)

    def refused(self, device: Device) -> dict[str, list[dict[str, Any]]]:
        """Configurations that computed wrongly on this very device before their first use, by problem."""
        found: dict[str, list[dict[str, Any]]] = {}
        for problem, trial in self._read(
            "run_trials",
            "SELECT t.*, p.key AS problem FROM runs r JOIN run_trials t ON t.run_id = r.id JOIN devices d "
            "ON d.id = r.device_id JOIN problems p ON p.id = r.problem_id "
            "WHERE r.sampler = ? AND d.fingerprint = ? AND t.outcome = ? ORDER BY t.id",
            (PROOF, device.fingerprint, Outcome.WRONG.value),
            lambda row: (row["problem"], rows.trial_from(row)),
        ):
            found.setdefault(problem, []).append(dict(trial.config))
        return found

    def relatives(self, device: Device, problem: str, template_version: int) -> list[Winner]:
        """What a search for this problem should try early: winners of the same problem and of other shapes, on this
        chip and on others of its backend, from this file and shipped ones, the nearest first."""
        with translated(self.path):
            return [rows.winner_from(row) for row in self._finder.relatives(device, problem, template_version)]

    def leaders(self, device: Device, problem: str, template_version: int, most: int) -> list[dict[str, Any]]:
        """The fastest configurations of the nearest problem that this file has trials of, the fastest first: what was
        nearly best there may be best here. As far away, this chip's count before others'."""
        with translated(self.path):
            return self._finder.leaders(device, problem, template_version, most)

    def exported(self, winners_only: bool = False, left_out: list[str] | None = None) -> list[dict[str, Any]]:
        """Everything there is, or current winners alone, as records for others; see `tuning_db.jsonl`. Rows that make
        no sense are said in `left_out`, or warned of."""
        wrong: list[str] = []
        with translated(self.path):
            self._connection.execute("BEGIN")  # one moment, however many write meanwhile
            try:
                records = stored_records.everything(self._connection, wrong)
                if winners_only:
                    records = stored_records.current_winners(self._connection, records)
            finally:
                self._connection.execute("ROLLBACK")
        if left_out is not None:
            left_out += wrong
        elif wrong:
            self._warn("the export", wrong[0])
        return records

    def copy_to(self, target: Path) -> None:
        """Write a copy of the whole file, as of one moment, that needs no other file beside it."""
        with translated(target):
            copy = sqlite3.connect(target)
            try:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE").fetchone()
            finally:
                copy.close()

    def info(self) -> dict[str, Any]:
        """Where the database is, its size in bytes (log included), its schema version and how much it holds."""
        files = (self.path, Path(f"{self.path}-wal"))
        counts = self._read(
            "the database",
            "SELECT (SELECT count(*) FROM devices) AS devices, (SELECT count(*) FROM problems) AS problems, "
            "(SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM run_trials WHERE kind = 'search') AS trials, "
            "(SELECT count(*) FROM winners WHERE current) AS winners, "
            "(SELECT count(*) FROM winners WHERE NOT current) AS replaced_winners",
            (),
            dict,
        )[0]
        with translated(self.path):
            version = migrations.schema_version(self._connection)
        size = sum(file.stat().st_size for file in files if file.is_file())
        return {
            "path": str(self.path),
            "exists": self.path.is_file(),
            "size_bytes": size,
            "schema_version": version,
            **counts,
        }

    def _read(self, table: str, sql: str, parameters: Sequence[Any], build: Callable[[dict[str, Any]], T]) -> list[T]:
        """What `build` makes of each row; a row that makes no sense is left out, with a warning, and hides no other."""
        with translated(self.path):
            found = self._query(sql, parameters)
        built = []
        for row in found:
            try:
                built.append(build(row))
            except (ValueError, TypeError, LookupError, OverflowError) as error:
                self._warn(table, str(error))
        return built

    def _warn(self, table: str, reason: str) -> None:
        warnings.warn(LeftOut(self.path, table, reason), stacklevel=2)

    def _query(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """Rows by column name."""
        return list(self._db.query(sql, parameters))


def _run_now(row: rows.Row) -> StoredRun:
    stored = rows.stored_run_from(row)
    running = stored.status is RunStatus.RUNNING
    if running and died(row["host"], row["pid"], stored.started_at):
        return replace(stored, status=RunStatus.INTERRUPTED)
    return stored
