"""Merging databases: commutative, associative, idempotent, and nothing lost; conflicts; prune; the text form."""

import json
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_templates.device import Device
from tuning_db import jsonl, open_db, rows
from tuning_db.records import Measurement, Objective, Outcome, Run, Trial, TrialKind, Winner

DEVICES = [Device("cpu", chip, "avx2", 2, 8 << 30, (("numba", "0.61"),)) for chip in ("Xeon", "Ryzen")]
KEYS = ["matvec:rows=576,cols=576,format=Q4_1", "matvec:rows=64,cols=576,format=Q4_1"]


def measured(ns):
    return Measurement(ns * 0.9, float(ns), ns * 1.2, 30)


def tune(db, device, key, times, status="finished", ceiling=None):
    """A run as the tuner makes one: trials, the fastest is compared once more and wins."""
    run = db.begin_run(device, Run(key, 1, "pool", 0, 100, 20_000, 80_000, {"commit": "abc"}))
    for tile, ns in enumerate(times):
        db.record_trial(run, Trial({"tile": tile}, Outcome.OK, measured(ns), 0.5, 1e-4, 1e-2))
    if times:
        best = times.index(min(times))
        trial = db.record_trial(
            run,
            Trial({"tile": best}, Outcome.OK, measured(min(times)), None, 1e-4, 1e-2, kind=TrialKind.FINAL_COMPARISON),
        )
        db.set_winner(device, Winner(key, 1, {"tile": best}, measured(min(times)), 4e3, 1e-4, 1e-2), run, trial)
    if status:
        db.finish_run(run, status)
    if ceiling:
        db.set_ceilings(device, {"read_gb_s": float(ceiling), "measured_at": float(ceiling)})
    return run


runs = st.builds(
    lambda *all: all,
    st.sampled_from(DEVICES), st.sampled_from(KEYS), st.lists(st.integers(1, 50), max_size=3),
    st.sampled_from(["finished", "budget", None]), st.one_of(st.none(), st.integers(1, 9)),
)  # fmt: skip
histories = st.lists(runs, max_size=3)


def merged(folder, name, *databases):
    with open_db(folder / name) as into:
        for database in databases:
            with open_db(database, readonly=True) as one:
                into.add(one.exported())
        return into.exported(), {(w.device, w.winner.problem): w.winner for w in into.winners()}


@pytest.fixture
def fast(monkeypatch):
    """Databases that live for a blink need no journal on disk."""
    from tuning_db import connection

    real = connection.open_for_writing

    def open_for_writing(path):
        opened = real(path)
        opened.execute("PRAGMA synchronous = OFF")
        return opened

    monkeypatch.setattr(connection, "open_for_writing", open_for_writing)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(before=histories, ours=histories, theirs=histories, hers=histories)
def test_merging_is_commutative_associative_and_idempotent(fast, before, ours, theirs, hers):
    """Three people go on from one file, each on their own, and merge in every way."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        start = stack.enter_context(open_db(folder / "start.db"))
        for run in before:
            tune(start, *run)
        a, b, c = (folder / f"{name}.db" for name in "abc")
        for path, history in ((a, ours), (b, theirs), (c, hers)):
            start.copy_to(path)
            with open_db(path) as db:
                for run in history:
                    tune(db, *run)
        join = partial(merged, folder)
        everything = join("abc.db", a, b, c)
        assert join("ab.db", a, b) == join("ba.db", b, a)
        assert join("cab.db", c, a, b) == everything
        join("bc.db", b, c)
        assert join("a-bc.db", a, folder / "bc.db") == everything == join("ab-c.db", folder / "ab.db", c)
        assert join("abcabc.db", folder / "abc.db", a, b, c, folder / "abc.db") == everything
        with open_db(a) as itself:
            alone = itself.exported()
            assert not any(itself.add(alone).rows.values()) and itself.exported() == alone
        counts = {kind: sum(f["kind"] == kind for f in everything[0]) for kind in ("run", "trial")}
        histories = [*before, *ours, *theirs, *hers]
        assert counts["run"] == len(histories)
        assert counts["trial"] == sum(len(times) + bool(times) for _, _, times, *_ in histories)


def test_the_better_time_wins_and_the_conflict_is_shown(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800])
        tune(b, DEVICES[0], KEYS[0], [700])
        tune(b, DEVICES[1], KEYS[0], [1])
        added = a.add(b.exported())
        (conflict,) = added.conflicts
        assert (conflict.chip, conflict.kept_ns, conflict.other_ns, conflict.kept_ours) == ("Xeon", 700.0, 800.0, False)
        assert a.lookup(DEVICES[0], KEYS[0], 1).winner.measurement.median_ns == 700.0
        assert not a.add(b.exported()).conflicts
        (mirrored,) = b.add(a.exported()).conflicts
        assert (mirrored.kept_ns, mirrored.other_ns, mirrored.kept_ours) == (700.0, 800.0, True)
        # A later measurement on the device replaces both, even a slower one.
        tune(a, DEVICES[0], KEYS[0], [750])
        assert not b.add(a.exported()).conflicts
        assert b.lookup(DEVICES[0], KEYS[0], 1).winner.measurement.median_ns == 750.0


def test_winners_alone_find_their_run_when_it_comes(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800])
        b.add(a.exported(winners_only=True))
        (lonely,) = b.winners()
        assert lonely.run_id is None and lonely.run_uid == a.winners()[0].run_uid
        b.add(a.exported())
        (linked,) = b.winners()
        assert linked.trial_id is not None and b.runs()[0].id == linked.run_id
        assert b.exported() == a.exported()


def test_prune_keeps_winners_and_their_runs(tmp_path):
    with open_db(tmp_path / "a.db") as db:
        for times in ([900], [800], [700]):
            tune(db, DEVICES[0], KEYS[0], times)
        running = tune(db, DEVICES[0], KEYS[1], [], status=None)
        before = db.exported()
        assert db.prune(keep=True) == {"winners": 2, "trials": 4, "runs": 2} and db.exported() == before
        assert db.prune() == {"winners": 2, "trials": 4, "runs": 2}
        assert db.lookup(DEVICES[0], KEYS[0], 1).winner.measurement.median_ns == 700.0
        assert [run.id for run in db.runs()] == [3, running] and len(db.trials(3)) == 2
        assert not db._connection.execute("PRAGMA foreign_key_check").fetchall()
        assert db.vacuum()[1] > 0
        db.add(before)
        assert db.exported() == before


def test_text_and_back_is_the_same(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800], ceiling=7)
        text = list(jsonl.write(a.exported()))
        b.add(jsonl.read(text, "a"))
        assert list(jsonl.write(b.exported())) == text
        assert b.ceilings(DEVICES[0]) == {"read_gb_s": 7.0, "measured_at": 7.0}


def test_state_energy_and_objective_travel_and_so_do_imported_runs(tmp_path):
    found = Measurement(900.0, 1000.0, 1200.0, 30, {"sm_mhz": [1980, 1965], "throttled": []}, 812.5)
    trial = Trial({"tile": 1}, Outcome.OK, found, 0.5, 1e-4, 1e-2)
    run = Run(KEYS[0], 1, "pool", 0, 100, 20_000, 80_000, {"commit": "abc"}, Objective.ENERGY)
    winner = Winner(KEYS[0], 1, {"tile": 1}, found, 4e3, 1e-4, 1e-2, "a reference", {"commit": "abc"}, 1972.5)
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        number = a.add_run(DEVICES[0], run, [trial, trial], "finished", None, None)
        a.set_winner(DEVICES[0], winner, number, 2)
        text = list(jsonl.write(a.exported()))
        b.add(jsonl.read(text, "a"))
        assert list(jsonl.write(b.exported())) == text
        (stored,) = b.runs()
        assert stored.run == run and b.trials(stored.id) == [trial, trial]
        assert b.winners()[0].winner == winner and b.winners()[0].trial_id == 2


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("winner", {"error": 0.5}, "a winner has to be correct"),
        ("winner", {"median_ns": -1.0}, "median_ns of a winner cannot be -1.0, which is out of range"),
        ("winner", {"energy_uj": -1.0}, "energy_uj of a winner cannot be -1.0"),
        ("trial", {"state": [1980]}, "state of a trial cannot be"),
        ("run", {"objective": "fame"}, "objective of a run cannot be 'fame'"),
        ("winner", {"median_ns": 10**400}, "out of range"),
        ("winner", {"median_ns": "fast"}, "median_ns of a winner cannot be 'fast'"),
        ("winner", {"config": [1]}, "config of a winner cannot be"),
        ("winner", {"speed": 1}, "a winner has an unknown field 'speed'"),
        ("device", {"chip": "H100"}, "not the one that its fingerprint names"),
        ("device", {"kind": "gadget"}, "no kind of record is called 'gadget'"),
        ("run", {"status": "lost"}, "status of a run cannot be 'lost'"),
        ("trial", {"outcome": "great"}, "outcome of a trial cannot be 'great'"),
    ],
)
def test_nonsense_from_outside_is_one_line_and_nothing_is_added(tmp_path, kind, change, complaint):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900])
        facts = [{**f, **change} if f["kind"] == kind else f for f in a.exported()]
        text = [jsonl.HEADER, *(json.dumps(fact) for fact in facts)]
        with pytest.raises(ValueError, match=complaint) as caught:
            b.add(jsonl.read(text, "theirs.jsonl"))
        assert "\n" not in str(caught.value)
        assert b.exported() == []


@pytest.mark.parametrize("first", ["", "[]", "hello", '{"autotune_db": 3}', "{" * 5000])
def test_another_files_first_line_is_refused(first):
    with pytest.raises(jsonl.BadLine, match=r"first line is not|newer autotune"):
        list(jsonl.read([first], "x"))


def test_an_export_from_before_trials_had_a_kind_is_the_same_facts(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800])
        old = []
        for fact in a.exported():
            kind = fact.pop("trial_kind", None)
            old.append({**fact, "message": "rematch"} if kind == "final_comparison" else fact)
        text = ['{"autotune_db":1}', *(json.dumps(fact) for fact in old)]
        assert b.add(jsonl.read(text, "old.jsonl")).rows["trials"] == 3
        assert b.exported() == a.exported() and [t.kind for t in b.trials(1)] == [
            "search",
            "search",
            "final_comparison",
        ]
        with pytest.raises(jsonl.BadLine, match="has no field 'trial_kind'"):
            list(jsonl.read([jsonl.HEADER, *text[1:]], "new.jsonl"))


def test_an_added_run_has_the_name_that_it_had_before_trials_had_a_kind(tmp_path):
    """Or a file that is imported once more would be a second run."""
    timed, failed = measured(1000), Trial({"a": 2}, Outcome.WRONG, None, 0.5, float("inf"), 1e-2, "no")
    final = Trial({"a": 1}, Outcome.OK, timed, None, 1e-4, 1e-2, kind=TrialKind.FINAL_COMPARISON)
    trials = [Trial({"a": 1}, Outcome.OK, timed, 0.5, 1e-4, 1e-2), failed, final]
    with open_db(tmp_path / "a.db") as a:
        a.add_run(DEVICES[0], Run("x:a=1", 1, "pool", 0, 3, 0, 0, {"commit": "abc"}), trials, "finished", None, None)
        assert a.runs()[0].uid == "68eaedada05b70a04a457a9729e9de57"  # as schema 4 named it


def test_a_timestamp_cannot_make_two_winners_one(tmp_path, monkeypatch):
    """Two different winners of one millisecond are two."""
    monkeypatch.setattr(rows, "utc_now", lambda: "2026-01-01T00:00:00.000+00:00")
    with open_db(tmp_path / "a.db") as a:
        tune(a, DEVICES[0], KEYS[0], [900])
        tune(a, DEVICES[0], KEYS[0], [800])
        tune(a, DEVICES[0], KEYS[0], [900])
        assert len(a.winners(history=True)) == 2
        assert [w.winner.measurement.median_ns for w in a.winners()] == [900.0]


def test_what_makes_no_sense_is_left_out_and_said(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800])
        tune(a, DEVICES[1], KEYS[0], [700])
        records = a.exported()
        odd = {"device": "000000000000", "uid": "other"}
        wrong = [{**r, **odd} for r in records if r["kind"] == "run"][:1]
        wrong += [{**r, "median_ns": 0.0, "uid": "another"} for r in records if r["kind"] == "winner"]
        added = b.add([*reversed(records), *wrong])
        assert b.exported() == records and len(added.left_out) == 3
        assert "speaks of the device 000000000000, which is not known" in added.left_out[-1]


def test_infinity_has_a_text_form(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        run = a.begin_run(DEVICES[0], Run(KEYS[0], 1, "pool", 0, 100, 1, 1))
        a.record_trial(run, Trial({"tile": 1}, Outcome.WRONG, None, 0.5, float("inf"), 1e-2, "NaN \u2028 in it"))
        a.record_trial(run, Trial({"tile": 2}, Outcome.WRONG, None, 0.5, float("nan"), 1e-2))
        a.finish_run(run, "finished")
        text = "\n".join(jsonl.write(a.exported()))
        assert '"error":"inf"' in text
        left_out = []
        b.add(jsonl.read_text(text.replace('"error":null', '"error":"nan"'), "a", left_out))
        assert not left_out and b.exported() == a.exported()
        assert [t.error for t in b.trials(1)] == [float("inf"), None]


def test_a_senseless_row_of_ones_own_gives_way(tmp_path):
    with open_db(tmp_path / "a.db") as a, open_db(tmp_path / "b.db") as b:
        tune(a, DEVICES[0], KEYS[0], [900, 800], ceiling=7)
        whole = a.exported()
        b.add(whole)
        for table, change in (
            ("devices", "versions = 1"), ("runs", "pid = 1 << 31"), ("run_trials", "config = x'00'"),
            ("winners", "median_ns = -1"), ("device_ceilings", "measured_at = 'yesterday'"),
        ):  # fmt: skip
            b._connection.execute(f"UPDATE {table} SET {change}")
        b.add(whole)
        assert b.exported() == whole and b.winners()[0].current
