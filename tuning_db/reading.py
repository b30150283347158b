"""The reading half of the database. One connection, for one thread of one process."""

import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from sqlite_utils import Database

from kernel_templates.device import Device
from tuning_db import merge, migrations, rows
from tuning_db.errors import damaged, translated
from tuning_db.finder import Finder
from tuning_db.records import Lookup, RunStatus, StoredRun, StoredWinner, Trial, Winner

T = TypeVar("T")

_WINNERS = """
    SELECT w.*, p.key AS problem, d.fingerprint, d.backend, d.chip, d.capability, d.units, d.memory_bytes, d.versions
    FROM winners w JOIN devices d ON d.id = w.device_id JOIN problems p ON p.id = w.problem_id
"""


class Reader:
    """The reading half of `TuningDB`. Every method raises DatabaseError when the file fails underneath it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        # Plugins of sqlite-utils are for its command line; none belongs into a lookup.
        self._db = Database(connection, execute_plugins=False)
        self._finder = Finder(connection, self._query)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with translated(self.path):
            self._connection.close()

    def devices(self) -> list[Device]:
        """Every device ever seen, in the order they came."""
        return self._read("SELECT * FROM devices ORDER BY id", (), rows.device_from)

    def ceilings(self, device: Device) -> dict[str, float] | None:
        """The measured limits of this very device by name, and `measured_at` in Unix seconds; None when unknown."""
        found = self._read(
            "SELECT c.name, c.value, c.measured_at FROM device_ceilings c JOIN devices d ON d.id = c.device_id "
            "WHERE d.fingerprint = ? ORDER BY c.name",
            (device.fingerprint,),
            lambda row: (row["name"], float(row["value"]), datetime.fromisoformat(row["measured_at"]).timestamp()),
        )
        if not found:
            return None
        return {**{name: value for name, value, _ in found}, "measured_at": max(when for *_, when in found)}

    def runs(self, device: Device | None = None) -> list[StoredRun]:
        """All runs, newest last, or those of one device. One whose process on this host is gone is interrupted."""
        return self._read(
            "SELECT r.*, p.key AS problem, d.backend, d.chip, d.capability, d.units, "
            "d.memory_bytes, d.versions, (SELECT count(DISTINCT t.config) FROM run_trials t "
            "WHERE t.run_id = r.id AND t.kind = 'search') AS trials "
            "FROM runs r JOIN devices d ON d.id = r.device_id JOIN problems p ON p.id = r.problem_id "
            "WHERE ? IS NULL OR d.fingerprint = ? ORDER BY r.id",
            (device and device.fingerprint,) * 2,
            lambda row: rows.stored_run_from({**row, "status": _status_now(row)}),
        )

    def trials(self, run_id: int) -> list[Trial]:
        """The trials of one run, in the order they were made."""
        return self._read("SELECT * FROM run_trials WHERE run_id = ? ORDER BY id", (run_id,), rows.trial_from)

    def past_trials(self, device: Device, problem: str, template_version: int) -> list[Trial]:
        """All trials ever made for this problem on this very device, newest last: what a new run need not repeat."""
        return self._read(
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
            _WINNERS + "WHERE (? IS NULL OR d.fingerprint = ?) AND (? IS NULL OR p.op = ?) "
            "AND (? OR w.current) ORDER BY p.key, w.id",
            (fingerprint, fingerprint, op, op, history),
            rows.stored_winner_from,
        )

    def best(self, problem: str) -> list[StoredWinner]:
        """The current winners of one problem on every device that has one, fastest first."""
        return self._read(
            _WINNERS + "WHERE p.key = ? AND w.current ORDER BY w.median_ns, w.id",
            (problem,),
            rows.stored_winner_from,
        )

    def lookup(self, device: Device, problem: str, template_version: int) -> Lookup:
        """Which configuration to launch for one problem, and why that one; see `tuning_db.lookup` for the order."""
        return self.lookup_all(device, [(problem, template_version)])[problem]

    def lookup_all(self, device: Device, wanted: Iterable[tuple[str, int]]) -> dict[str, Lookup]:
        """`lookup` for many (problem, template version) pairs at the cost of about one, keyed by problem."""
        with translated(self.path), self._sensible():
            return self._finder.find_all(device, list(wanted))

    def relatives(self, device: Device, problem: str, template_version: int) -> list[Winner]:
        """What a search for this problem should try early: winners of the same problem and of other shapes, on this
        chip and on others of its backend, from this file and shipped ones, the nearest first."""
        with translated(self.path), self._sensible():
            return [rows.winner_from(row) for row in self._finder.relatives(device, problem, template_version)]

    def leaders(self, device: Device, problem: str, template_version: int, most: int) -> list[dict[str, Any]]:
        """The fastest configurations of the nearest problem that this file has trials of, the fastest first: what was
        nearly best there may be best here. As far away, this chip's count before others'."""
        with translated(self.path), self._sensible():
            return [rows.mapping(text) for text in self._finder.leaders(device, problem, template_version, most)]

    def exported(self, winners_only: bool = False) -> list[dict[str, Any]]:
        """Everything there is, or current winners alone, as records for others; see `tuning_db.jsonl`."""
        with translated(self.path), self._sensible():
            self._connection.execute("BEGIN")  # one moment, however many write meanwhile
            try:
                return (merge.winners_only if winners_only else merge.all_records)(self._connection)
            finally:
                self._connection.execute("ROLLBACK")

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

    @contextmanager
    def _sensible(self) -> Iterator[None]:
        """A row that cannot be decoded is damage to the file, not a bug of the caller."""
        try:
            yield
        except (ValueError, TypeError, LookupError) as error:
            raise damaged(self.path, f"a row makes no sense: {error}") from error

    def _read(self, sql: str, parameters: Sequence[Any], build: Callable[[dict[str, Any]], T]) -> list[T]:
        with translated(self.path):
            found = self._query(sql, parameters)
        with self._sensible():
            return [build(row) for row in found]

    def _query(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        """Rows by column name."""
        return list(self._db.query(sql, parameters))


def _status_now(row: rows.Row) -> str:
    alive = row["host"] != socket.gethostname() or psutil.pid_exists(int(row["pid"]))
    return row["status"] if row["status"] != RunStatus.RUNNING or alive else RunStatus.INTERRUPTED
