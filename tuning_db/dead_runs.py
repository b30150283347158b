"""Closes runs whose process ended without a word: killed, or the machine went down."""

import socket
import sqlite3
from datetime import datetime

import psutil

from tuning_db.field_checks import PID
from tuning_db.records import RunStatus

REUSED_S = 2.0  # a process that began so much later than its run cannot be the run's: the number was given again


def died(host: object, pid: object, started_at: object) -> bool:
    """Whether the process of a run is known to be gone; of another machine's nothing is known."""
    if host != socket.gethostname():
        return False
    if type(pid) is not int or not PID[0] <= pid <= PID[1]:
        return True
    try:
        began = psutil.Process(pid).create_time()
        return began > datetime.fromisoformat(str(started_at)).timestamp() + REUSED_S
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False


def close(connection: sqlite3.Connection) -> None:
    """End as interrupted what no process runs any more, at the time of its last trial. The caller may write."""
    running = connection.execute(
        "SELECT id, host, pid, started_at FROM runs WHERE status = ?", (RunStatus.RUNNING.value,)
    ).fetchall()
    dead = [run for run, host, pid, started_at in running if died(host, pid, started_at)]
    if not dead:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "UPDATE runs SET status = ?1, finished_at = coalesce((SELECT max(created_at) FROM run_trials t "
            "WHERE t.run_id = runs.id), started_at) WHERE id = ?2 AND status = ?3",
            [(RunStatus.INTERRUPTED.value, run, RunStatus.RUNNING.value) for run in dead],
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
