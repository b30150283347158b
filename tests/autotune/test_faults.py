"""Candidates that misbehave in every way, and kills from outside: each costs a trial at most, and the winner stays."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faulty
import psutil
import pytest
from faulty import BEST, DEVICE, FAULTS, SPACE, Faulty
from forked import Forked
from waiting import eventually

from autotune.tuning import sequential
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import Outcome, Source, TrialKind

PROBLEM = Faulty(1)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setitem(registry.OPERATIONS, Faulty.op, faulty.operation())


def run(path: Path, trials: int = 200, sampler: str = "exhaustive", **settings):
    with open_db(path) as db:
        (tuned,) = sequential.tune({PROBLEM: 1}, db, TuneSettings(trials, None, sampler, **settings), faulty.target())
    return tuned


def trials_of(path: Path) -> list:
    with open_db(path, readonly=True) as db:
        found = db.past_trials(DEVICE, PROBLEM.key, 1)
        assert db.lookup(DEVICE, PROBLEM.key, 1).source is Source.EXACT
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return [t for t in found if t.kind is TrialKind.SEARCH]


def leftovers(tmp_path: Path) -> list[str]:
    return [p.name for p in tmp_path.glob("autotune-*")]


def orphans() -> list[psutil.Process]:
    """Workers of this very test that still run, whoever their parent is now: others may run beside it."""
    found = []
    for process in psutil.process_iter(["cmdline", "status", "environ"]):
        words, mine = process.info["cmdline"] or [], (process.info["environ"] or {}).get("TMPDIR")
        running = process.info["status"] != psutil.STATUS_ZOMBIE
        if faulty.PROGRAM[1] in words and running and mine == os.environ["TMPDIR"]:
            found.append(process)
    return found


def gone() -> bool:
    return eventually(lambda: not orphans())


def test_every_fault_is_recorded_as_what_it_was(tmp_path, monkeypatch) -> None:
    """One configuration for each fault, and some that behave: they fall before, between and after the others."""
    bad = {next(c for c in SPACE.configs() if faulty.fault_of(c, 1) == fault): fault for fault in FAULTS}
    good = [c for c in SPACE.configs() if faulty.fault_of(c, 1) is None][::30]
    monkeypatch.setenv("FAULTY_SEED", "1")
    monkeypatch.setattr(faulty, "SPACE", faulty.cut([*bad, *good, SPACE.default, Config(BEST)]))
    tuned = run(tmp_path / "t.db")
    found = {Config(t.config): t for t in trials_of(tmp_path / "t.db")}
    assert tuned.config == BEST
    assert {bad[c]: str(found[c].outcome) for c in bad} == FAULTS
    assert all(t.outcome is Outcome.OK and t.message is None for c, t in found.items() if c not in bad)
    assert all(found[c].message for c in bad if FAULTS[bad[c]] != "ok")
    assert gone() and leftovers(tmp_path) == []
    messages = {bad[c]: found[c].message for c in bad}
    assert "signal 11" in messages["segfault"] and "signal 11" in messages["bounds"] and "(0)" in messages["exit"]
    assert "pipe" in messages["garbage"] and messages["raise"] == "ValueError: no such kernel"


def tune_all(say: Callable[[object], None], path: Path, count: int) -> None:
    """Tune `count` of the configurations, or all 200; says how many were tried, and None at the end."""
    registry.OPERATIONS["faulty"] = faulty.operation()
    every = SPACE.configs()
    faulty.SPACE = SPACE if count == 200 else faulty.cut([SPACE.default, Config(BEST), *every[:: 200 // count]])
    settings = TuneSettings(sampler="exhaustive", report=lambda p: say(p.trial))
    with open_db(path) as db:
        sequential.tune({PROBLEM: 1}, db, settings, faulty.target(identity="faulty"))
    say(None)


class Reaper(threading.Thread):
    """Kills one of the workers now and then, no two within `apart_s`: what a kill costs is tried again meanwhile."""

    def __init__(self, dice: random.Random, apart_s: float):
        super().__init__(daemon=True)
        self.kills, self._dice, self._apart_s, self._over = 0, dice, apart_s, threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._apart_s + self._dice.random()):
            if workers := orphans():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._dice.choice(workers).kill()
                    self.kills += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def mixture(tmp_path: Path, monkeypatch, seed: int, parent_kills: int, count: int, kill_after_s: float) -> Counter:
    """Tune `count` configurations, half of which misbehave, killing the tuner some times and workers meanwhile."""
    path, dice = tmp_path / "m.db", random.Random(seed)
    monkeypatch.setenv("FAULTY_SEED", str(seed))
    reaper = Reaper(dice, 3.0)
    reaper.start()
    told, attempts = 0, 0
    try:
        while True:
            process = Forked(tune_all, path, count)
            if attempts < parent_kills:
                threading.Timer(1.0 + kill_after_s * dice.random(), process.kill).start()
            heard = process.rest()
            code = process.wait()
            told = max([told, *(trial for trial in heard if trial is not None)])
            if path.exists():
                with open_db(path, readonly=True) as db:
                    # Whatever was reported is there.
                    kept = {Config(t.config) for t in db.past_trials(DEVICE, PROBLEM.key, 1)}
                    assert len(kept) >= told
            assert gone(), "workers outlive their parent"
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            attempts += 1
    finally:
        reaper.stop()
    assert heard[-1] is None and leftovers(tmp_path) == []
    trials = trials_of(path)
    counts = Counter(Config(t.config) for t in trials)
    repeated = [c for c, n in counts.items() if n > 1]
    unlike = [t for t in trials if t.outcome != FAULTS.get(faulty.fault_of(t.config, seed) or "", "ok")]
    assert repeated == [] and len(unlike) <= reaper.kills, (repeated, unlike)
    with open_db(path, readonly=True) as db:
        assert db.lookup(DEVICE, PROBLEM.key, 1).winner.config == BEST
    result = Counter({str(t.outcome): 0 for t in trials})
    result.update(str(t.outcome) for t in trials)
    print(f"seed {seed}: {len(counts)} candidates {dict(result)}, {len(unlike)} lost, "
          f"{reaper.kills} workers and {attempts} tuners killed")  # fmt: skip
    return result


def test_a_small_mixture_with_kills_ends_with_the_same_winner(tmp_path, monkeypatch) -> None:
    mixture(tmp_path, monkeypatch, 3, parent_kills=1, count=6, kill_after_s=0.5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 105))
def test_two_hundred_candidates(tmp_path, monkeypatch, seed) -> None:
    outcomes = mixture(tmp_path, monkeypatch, seed, parent_kills=5, count=200, kill_after_s=20.0)
    assert sum(outcomes.values()) == 200 and outcomes["ok"] < 150


def test_a_search_ends_with_its_budget_and_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAULTY_SLOW", "0.1")
    with open_db(tmp_path / "b.db") as db:
        (tuned,) = sequential.tune({PROBLEM: 1}, db, TuneSettings(budget_s=1.0), faulty.target())
        assert [r.status for r in db.runs()] == ["budget"] and 1 <= tuned.trials < 200
    more = run(tmp_path / "b.db", trials=tuned.trials + 3)
    assert more.trials == tuned.trials + 3


@pytest.mark.timing
def test_a_budget_is_kept_to_within_one_trial(tmp_path, monkeypatch) -> None:
    """A trial takes 0.3 s, four are compiled at once, and the last comparison is part of the budget too."""
    monkeypatch.setenv("FAULTY_SLOW", "0.3")
    begun, spent = time.monotonic(), []
    with open_db(tmp_path / "b.db") as db:
        settings = TuneSettings(budget_s=5.0, report=lambda p: spent.append(time.monotonic() - begun))
        (tuned,) = sequential.tune({PROBLEM: 1}, db, settings, faulty.target(compilers=4))
    assert 1 < tuned.trials < 18 and spent[-1] <= 5.0 + 0.3, spent
    assert time.monotonic() - begun < 5.0 + 0.3 + 2.0  # processes begin and end


def test_stale_folders_of_killed_runs_go(tmp_path, monkeypatch) -> None:
    from autotune.runner.shared_folder import RunFolder

    script = (
        "from autotune.runner.shared_folder import RunFolder\nimport time\n"
        "folder = RunFolder()\nprint(folder.path, flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    left = Path(process.stdout.readline().strip())
    (left / "inputs").write_text("x")
    mine = RunFolder()
    assert left.is_dir(), "its owner lives"
    process.kill()
    process.wait()
    other = RunFolder()
    assert not left.exists() and mine.path.is_dir() and other.path.is_dir()
    mine.close(), other.close()
    assert leftovers(tmp_path) == []
