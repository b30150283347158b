"""Opens the database and writes to it, each write a short transaction of its own.

A trial is on disk when `record_trial` returns: a process killed at any instant loses at most the one in flight.
"""

import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernel_templates.device import Device
from kernel_templates.space import Space
from tuning_db import connection, dead_runs, keys, merge, repair, rows, uids, validation
from tuning_db.errors import DatabaseError, read_only, translated
from tuning_db.location import default_path
from tuning_db.reading import PROOF, Reader
from tuning_db.records import Outcome, Run, RunStatus, Trial, Winner

_RUNNING = RunStatus.RUNNING.value


def open_db(path: str | Path | None = None, readonly: bool = False) -> "TuningDB":
    """Open the tuning database at `path`, or at its usual place (`default_path`).

    For writing, the file and its directories are made where missing and the schema is brought up to date. For
    reading, nothing on disk changes; where the usual place holds no file yet, the answer is an empty database.
    A damaged, foreign or newer file is left exactly as it is.

    Raises DatabaseError, one line, when the file cannot be used.
    """
    file = default_path() if path is None else Path(path).expanduser()
    if not readonly:
        return TuningDB(file, connection.open_for_writing(file), writable=True)
    # A named file that is missing is a typing error; the usual place is simply empty before the first run.
    if file == default_path() and _is_missing(file):
        return TuningDB(file, connection.open_empty(), writable=False)
    return TuningDB(file, connection.open_for_reading(file), writable=False)


class TuningDB(Reader):
    """One open database. Use it in the thread and the process that opened it; others open their own.

    Every method raises DatabaseError when the file cannot take the write; earlier writes are kept.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, writable: bool) -> None:
        super().__init__(path, connection)
        self.writable = writable
        self._process = os.getpid()
        self._identity = self._identity_now() if writable else None
        if writable:
            with translated(path):
                dead_runs.close(connection)

    def remember_device(self, device: Device) -> int:
        """The id of a device, which is added when new."""
        with self._transaction():
            return self._device_id(device)

    def set_ceilings(self, device: Device, ceilings: Mapping[str, float]) -> None:
        """Replace the measured limits of a device: names with their unit, such as `read_gb_s`, to values.

        `measured_at` (Unix seconds) among them says when; it is now when absent.
        """
        values = {name: float(value) for name, value in ceilings.items()}
        seconds = values.pop("measured_at", None)
        when = rows.utc_now() if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
        with self._transaction():
            device_id = self._device_id(device)
            self._connection.execute("DELETE FROM device_ceilings WHERE device_id = ?", (device_id,))
            for name, value in values.items():
                row = {"device_id": device_id, "name": name, "value": value, "measured_at": when}
                self._insert("device_ceilings", row)

    def begin_run(self, device: Device, run: Run, space: Space | None = None) -> int:
        """Open a run of this process and return its id; its status is `running` until `finish_run`."""
        with self._transaction():
            space_id = None if space is None else self._id_of("spaces", "uid", uids.space_row(space))
            return self._insert(
                "runs",
                {
                    "device_id": self._device_id(device),
                    "problem_id": self._problem_id(run.problem),
                    "uid": uids.new_run(),
                    "space_id": space_id,
                    **rows.run_row(run),
                    "status": RunStatus.RUNNING.value,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "started_at": rows.utc_now(),
                },
            )

    def record_trial(self, run_id: int, trial: Trial) -> int:
        """Store one trial and return its id. Raises ValueError for a configuration that JSON cannot say."""
        row = {"run_id": run_id, **rows.trial_row(trial), "created_at": rows.utc_now()}
        with self._transaction():
            last = self._connection.execute(
                "SELECT max(number) FROM run_trials WHERE run_id = ?", (run_id,)
            ).fetchone()[0]
            return self._insert("run_trials", {**row, "number": 0 if last is None else last + 1})

    def finish_run(self, run_id: int, status: str) -> None:
        """Close a run as `finished`, `interrupted` or `budget`. Raises ValueError for any other status."""
        ended = RunStatus(status)
        if ended is RunStatus.RUNNING:
            raise ValueError("a run cannot end as running")
        with self._transaction():
            self._connection.execute(
                "UPDATE runs SET status = ?, finished_at = ? WHERE id = ?", (ended.value, rows.utc_now(), run_id)
            )

    def add_run(
        self, device: Device, run: Run, trials: Sequence[Trial], status: str, started_at: str | None,
        finished_at: str | None, known_as: str | None = None, ended_at: Sequence[str] = (),
    ) -> int:  # fmt: skip
        """Store a run that happened elsewhere, all of it or nothing, and return its id. Times are UTC in ISO 8601, now
        where they are not known. Its name is its content's: the same run is stored once, however often it is added.
        known_as: the name that it has where it happened; if that is here, the run is there already. ended_at: when
        each trial ended, empty if that is not known."""
        now, tried = rows.utc_now(), [rows.trial_row(trial) for trial in trials]
        about = (device.fingerprint, run.problem, rows.run_row(run), status, started_at)
        uid = uids.content_id(*about, uids.trials_text(tried))
        with self._transaction():
            if known := self._connection.execute("SELECT id FROM runs WHERE uid IN (?, ?)", (uid, known_as)).fetchone():
                return int(known[0])
            run_id = self._insert(
                "runs",
                {
                    "device_id": self._device_id(device),
                    "problem_id": self._problem_id(run.problem),
                    "uid": uid,
                    **rows.run_row(run),
                    "status": RunStatus(status).value,
                    "host": "",
                    "pid": 0,
                    "started_at": started_at or now,
                    "finished_at": finished_at if started_at else now,
                },
            )
            for number, (row, ended) in enumerate(zip(tried, ended_at or [now] * len(tried), strict=True)):
                self._insert("run_trials", {"run_id": run_id, "number": number, **row, "created_at": ended})
            return run_id

    def mark_refused(
        self, device: Device, problem: str, template_version: int, config: Mapping[str, Any], why: str
    ) -> None:
        """Remember that a configuration computes wrongly on this device: a run of its own, sampler `proof`, with one
        trial that says why. A search will not try it again, and `refused` names it. Twice is like once."""
        if dict(config) in self.refused(device).get(problem, ()):
            return
        run = self.begin_run(device, Run(problem, template_version, PROOF, 0, 1, 0, 0))
        self.record_trial(run, Trial(config, Outcome.WRONG, message=why))
        self.finish_run(run, RunStatus.FINISHED)

    def set_winner(self, device: Device, winner: Winner, run_id: int | None, trial_id: int | None) -> int:
        """Make this the current winner of its problem and template version on this device; return its id.

        The one it replaces stays in the history. Raises ValueError for a winner outside its tolerance.
        """
        if not winner.error <= winner.tolerance:
            raise ValueError(f"a winner has to be correct: error {winner.error} is above {winner.tolerance}")
        row, now = rows.winner_row(winner), rows.utc_now()
        with self._transaction():
            device_id, problem_id = self._device_id(device), self._problem_id(winner.problem)
            uid = uids.winner_id(device.fingerprint, winner.problem, {**row, "created_at": now})
            self._connection.execute(
                "UPDATE winners SET replaced_at = ?, current = 0 WHERE device_id = ? AND problem_id = ? "
                "AND template_version = ? AND replaced_at IS NULL AND uid != ?",
                (now, device_id, problem_id, row["template_version"], uid),
            )
            self._finder.forget()
            # Set twice within a millisecond it is the same one.
            if known := self._connection.execute("SELECT id FROM winners WHERE uid = ?", (uid,)).fetchone():
                self._connection.execute("UPDATE winners SET replaced_at = NULL, current = 1 WHERE id = ?", known)
                return int(known[0])
            links = {"device_id": device_id, "problem_id": problem_id, "run_id": run_id, "trial_id": trial_id}
            names = {
                "uid": uid,
                "current": 1,
                "run_uid": self._value("SELECT uid FROM runs WHERE id = ?", run_id),
                "trial_number": self._value("SELECT number FROM run_trials WHERE id = ?", trial_id),
            }
            return self._insert("winners", {**links, **names, **row, "created_at": now})

    def add(self, news: Iterable[merge.Record]) -> merge.Added:
        """Add what others know (`tuning_db.merge`) in one transaction. Twice is like once. What makes no sense is left
        out, and told in the answer."""
        with self._transaction():
            self._finder.forget()
            return merge.Adder(self._connection).add(news)

    def prune(self, keep: bool = False) -> dict[str, int]:
        """Delete what no current winner came from: replaced winners, ended runs and their trials. A later search
        will not remember those trials. keep: only count. Returns rows by table."""
        dead = f"NOT EXISTS (SELECT 1 FROM winners w WHERE w.run_id = runs.id AND w.current) AND status != '{_RUNNING}'"
        steps = {
            "winners": "winners WHERE NOT current",
            "trials": f"run_trials WHERE run_id IN (SELECT id FROM runs WHERE {dead})",
            "runs": f"runs WHERE {dead}",
        }
        counts = {}
        with self._transaction():
            self._finder.forget()
            for name, what in steps.items():
                counts[name] = int(self._connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])
                if not keep:
                    self._connection.execute(f"DELETE FROM {what}")
        return counts

    def repair(self) -> list[repair.Removed]:
        """Delete what makes no sense and what belongs to it; each row with its reason. Problems keep their names: what
        follows from a key is computed again."""
        with self._transaction():
            self._finder.forget()
            return repair.repair(self._connection)

    def vacuum(self) -> tuple[int, int]:
        """Give the space of deleted rows back to the disk. Returns bytes before and after."""
        before = self.info()["size_bytes"]
        with translated(self.path):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return before, self.info()["size_bytes"]

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Several writes as one: an error in any of them undoes them all."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self.writable:
            raise read_only(self.path)
        if self._connection.in_transaction:  # a part of one
            yield
            return
        if os.getpid() != self._process:
            raise RuntimeError("a tuning database must not be used across a fork; open it again in the child")
        if self._identity_now() != self._identity:
            # SQLite would go on writing into a file that has no name any more, and all of it would be lost.
            raise DatabaseError(f"tuning database {self.path} was moved or deleted while in use; start the run again")
        with translated(self.path):
            # IMMEDIATE waits for other writers here, where nothing has been read yet that could turn stale.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _identity_now(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _device_id(self, device: Device) -> int:
        """Its row says again what the device is, should another program have changed it."""
        row = rows.device_row(device)
        number = self._id_of("devices", "fingerprint", {**row, "first_seen_at": rows.utc_now()})
        found = self._query("SELECT * FROM devices WHERE id = ?", (number,))[0]
        try:
            validation.row("devices", found)
        except ValueError:
            row |= {"first_seen_at": rows.utc_now(), "id": number}
            changes = ", ".join(f"{name} = :{name}" for name in row)
            self._connection.execute(f"UPDATE devices SET {changes} WHERE id = :id", row)
        return number

    def _problem_id(self, key: str) -> int:
        return self._id_of("problems", "key", keys.row(key))

    def _value(self, sql: str, row_id: int | None) -> Any:
        found = None if row_id is None else self._connection.execute(sql, (row_id,)).fetchone()
        return found[0] if found else None

    def _id_of(self, table: str, unique: str, row: Mapping[str, Any]) -> int:
        found = self._connection.execute(f"SELECT id FROM {table} WHERE {unique} = ?", (row[unique],)).fetchone()
        return int(found[0]) if found else self._insert(table, row)

    def _insert(self, table: str, row: Mapping[str, Any]) -> int:
        """The new row's id. Raises ValueError for a row that no reader would take."""
        validation.row(table, {**dict.fromkeys(validation.TABLES[table]), **row})
        marks = ", ".join(f":{name}" for name in row)
        cursor = self._connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", dict(row))
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def _is_missing(file: Path) -> bool:
    # Unreadable is not missing: only a plain "not there" may be answered with an empty database.
    try:
        file.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
