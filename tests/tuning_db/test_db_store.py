"""Records go in and come out equal; history, resuming, ceilings and the numbers of `info`."""

import multiprocessing
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_db import DatabaseError, default_path, migrations, open_db
from tuning_db.records import Outcome, RunStatus, Trial
from tuning_db.rows import canonical_json


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "deep" / "down" / "tuning.db") as opened:
        yield opened


def test_default_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.delenv("AUTOTUNE_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "autotune" / "tuning.db"


def test_opening_sets_what_the_documentation_promises(db):
    pragmas = {name: db._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in
               ("journal_mode", "busy_timeout", "synchronous", "foreign_keys")}  # fmt: skip
    assert pragmas == {"journal_mode": "wal", "busy_timeout": 10_000, "synchronous": 1, "foreign_keys": 1}


def test_a_trial_comes_back_equal(db, samples):
    run = db.begin_run(samples.device(), samples.run())
    trials = [
        samples.trial(),
        Trial({"tile": 128}, Outcome.WRONG, None, 0.1, float("inf"), 0.01, "error too large"),
        Trial({}, Outcome.PRUNED, message="tile exceeds rows"),
    ]
    ids = [db.record_trial(run, trial) for trial in trials]
    assert ids == sorted(ids)
    assert db.trials(run) == trials


def test_messages_are_one_short_line_of_valid_text(db, samples):
    run = db.begin_run(samples.device(), samples.run())
    db.record_trial(run, Trial({}, Outcome.CRASHED, message="line\n  two \udcff" + "x" * 2000))
    db.record_trial(run, Trial({}, Outcome.WRONG, error=float("nan")))
    crashed, wrong = db.trials(run)
    assert crashed.message.startswith("line two \\udcffxxx") and len(crashed.message) == 500
    assert wrong.error is None


def test_numpy_scalars_are_stored_as_plain_numbers(db, samples):
    run = db.begin_run(samples.device(), samples.run())
    db.record_trial(run, Trial({"tile": np.int64(64), "fast": np.bool_(True)}, Outcome.OK, compile_s=np.float32(0.5)))
    assert db.trials(run)[0].config == {"tile": 64, "fast": True}


def test_past_trials_are_those_of_this_device_problem_and_version(db, samples):
    here = samples.device()
    runs = [
        db.begin_run(here, samples.run()),
        db.begin_run(here, samples.run()),
        db.begin_run(samples.device(numba="0.62"), samples.run()),
        db.begin_run(here, samples.run(template_version=2)),
        db.begin_run(here, samples.run(problem="matvec:rows=1,cols=1,format=Q4_1,residual=0")),
    ]
    for tile, run in enumerate(runs):
        db.record_trial(run, samples.trial(tile))
    assert [trial.config["tile"] for trial in db.past_trials(here, samples.key, 1)] == [0, 1]


def test_a_replaced_winner_stays_in_the_history(db, samples):
    device = samples.device()
    run = db.begin_run(device, samples.run())
    for tile in (32, 64):
        db.set_winner(device, samples.winner(tile=tile), run, db.record_trial(run, samples.trial(tile)))
    db.set_winner(device, samples.winner(tile=16, template_version=2), None, None)
    current = db.winners(device)
    assert [stored.winner.config["tile"] for stored in current] == [64, 16]
    assert current[0].winner == samples.winner(tile=64) and current[0].run_id == run
    history = db.winners(history=True)
    assert [bool(stored.replaced_at) for stored in history] == [True, False, False]
    assert db.winners(op="ffn") == []


def test_best_lists_every_device_fastest_first(db, samples):
    for chip, time in (("slow", 900.0), ("fast", 300.0)):
        db.set_winner(samples.device(chip), samples.winner(median_ns=time), None, None)
    assert [stored.device.chip for stored in db.best(samples.key)] == ["fast", "slow"]


def test_a_wrong_winner_is_refused(db, samples):
    wrong = samples.winner()
    for error in (0.5, float("nan")):
        with pytest.raises(ValueError, match="has to be correct"):
            db.set_winner(samples.device(), type(wrong)(**{**wrong.__dict__, "error": error}), None, None)
    assert db.winners() == []


def test_ceilings_belong_to_the_exact_device_and_are_replaced_as_a_whole(db, samples):
    device = samples.device()
    assert db.ceilings(device) is None
    db.set_ceilings(device, {"read_gb_s": 32.0, "copy_gb_s": 20.0})
    assert db.ceilings(device)["measured_at"] > 1.7e9
    db.set_ceilings(device, {"read_gb_s": 33.5, "measured_at": 1_800_000_000.0})
    assert db.ceilings(device) == {"read_gb_s": 33.5, "measured_at": 1_800_000_000.0}
    assert db.ceilings(samples.device(numba="0.62")) is None
    assert db.devices() == [device]
    assert db.devices()[0].fingerprint == device.fingerprint


def test_runs_show_how_they_ended(db, samples):
    device = samples.device()
    finished, running = (db.begin_run(device, samples.run()) for _ in range(2))
    db.record_trial(finished, samples.trial())
    db.finish_run(finished, "budget")
    orphan = multiprocessing.get_context("fork").Process(target=_begin_run, args=(db.path, device, samples.run()))
    orphan.start()
    orphan.join()
    runs = {stored.id: stored for stored in db.runs(device)}
    assert (runs[finished].status, runs[finished].trials) == (RunStatus.BUDGET, 1)
    assert runs[finished].run == samples.run() and runs[finished].finished_at
    assert runs[running].status is RunStatus.RUNNING
    assert runs[running + 1].status is RunStatus.INTERRUPTED
    for status in ("running", "lost"):
        with pytest.raises(ValueError):
            db.finish_run(running, status)


def _begin_run(path, device, run):
    open_db(path).begin_run(device, run)


def test_an_unknown_run_is_refused(db, samples):
    with pytest.raises(DatabaseError, match="FOREIGN KEY"):
        db.record_trial(99, samples.trial())
    assert not db._connection.in_transaction


def test_info_counts_and_measures(db, samples):
    run = db.begin_run(samples.device(), samples.run())
    db.record_trial(run, samples.trial())
    info = db.info()
    assert info["path"] == str(db.path) and info["exists"] and info["size_bytes"] > 4096
    assert {name: info[name] for name in ("schema_version", "devices", "problems", "runs", "trials", "winners")} == {
        "schema_version": migrations.LATEST, "devices": 1, "problems": 1, "runs": 1, "trials": 1, "winners": 0,
    }  # fmt: skip


def test_config_is_stored_as_canonical_json(db, samples):
    run = db.begin_run(samples.device(), samples.run())
    db.record_trial(run, Trial({"b": 1, "a": "ü"}, Outcome.OK))
    assert sqlite3.connect(db.path).execute("SELECT config FROM run_trials").fetchone() == ('{"a":"ü","b":1}',)
    with pytest.raises(ValueError):
        db.record_trial(run, Trial({"a": float("nan")}, Outcome.OK))


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.none())))
def test_canonical_json_forgets_the_order_of_the_keys(config):
    assert canonical_json(config) == canonical_json(dict(reversed(config.items())))


def test_a_child_process_has_to_open_its_own(db, samples, as_ordinary_user):
    assert "must not be used across a fork" in as_ordinary_user(db.remember_device, samples.device())
