"""Runs whose process ended without a word."""

import multiprocessing
import os
import signal
import sqlite3
from datetime import UTC, datetime, timedelta

from tuning_db import open_db
from tuning_db.records import RunStatus


def _run_and_die(path, samples):
    db = open_db(path)
    run = db.begin_run(samples.device(), samples.run())
    db.record_trial(run, samples.trial())
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_is_closed_at_the_next_opening_and_can_be_pruned(tmp_path, samples):
    path = tmp_path / "tuning.db"
    child = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(path, samples))
    child.start()
    child.join()
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT status FROM runs").fetchall() == [("running",)]
    with open_db(path, readonly=True) as db:
        assert [run.status for run in db.runs()] == [RunStatus.INTERRUPTED]
    with open_db(path) as db:
        (run,) = db.runs()
        assert run.status is RunStatus.INTERRUPTED and run.finished_at and run.trials == 1
        assert raw.execute("SELECT status, finished_at FROM runs").fetchall() == [("interrupted", run.finished_at)]
        assert db.prune() == {"winners": 0, "trials": 1, "runs": 1}


def test_a_living_run_and_one_elsewhere_stay_open(tmp_path, samples):
    path = tmp_path / "tuning.db"
    with open_db(path) as db:
        db.begin_run(samples.device(), samples.run())
        elsewhere = db.begin_run(samples.device(), samples.run())
        db._connection.execute("UPDATE runs SET host = 'elsewhere', pid = 1 WHERE id = ?", (elsewhere,))
        reused = db.begin_run(samples.device(), samples.run())
        before = (datetime.now(UTC) - timedelta(days=400)).isoformat()
        db._connection.execute("UPDATE runs SET started_at = ? WHERE id = ?", (before, reused))
        with open_db(path) as other:
            assert [run.status for run in other.runs()] == [
                RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.INTERRUPTED,
            ]  # fmt: skip
