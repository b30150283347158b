"""The tuner for real: worker processes, compiled candidates, a database on disk; small problems and few trials."""

import os
import signal
from dataclasses import replace

import pytest

from autotune.runner.protocol import Measure, Open, Opened, Wrong
from autotune.runner.worker_process import Worker, WorkerDied, WorkerTimedOut
from autotune.tuning import sequential, target
from autotune.tuning.tuner_base import Progress, TuneSettings
from kernel_templates.cpu import machine
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import Outcome, Source

PROBLEM = Matvec(96, 64, "Q8_0")
ONE_WORKER = replace(target.cpu(), compilers=1)  # each takes 3 s to begin


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db") as opened:
        yield opened


def test_a_winner_is_proved_recorded_and_found_again(db) -> None:
    seen: list[Progress] = []
    (first,) = sequential.tune(
        {PROBLEM: 3}, db, TuneSettings(trials=3, budget_s=None, sampler="exhaustive", report=seen.append)
    )
    assert [p.trial for p in seen] == [1, 2, 3] and first.trials == 3 and first.count == 3
    assert first.best_ns <= first.default_ns and first.source == "searched"
    answer = db.lookup(machine.detect(), PROBLEM.key, PROBLEM.template_version)
    assert answer.source is Source.EXACT and answer.winner.config == dict(first.config)
    assert answer.winner.error <= answer.winner.tolerance
    trials = db.past_trials(machine.detect(), PROBLEM.key, PROBLEM.template_version)
    assert all(t.outcome is Outcome.OK and t.measurement.median_ns > 0 for t in trials)

    (again,) = sequential.tune({PROBLEM: 3}, db, TuneSettings(trials=3), ONE_WORKER)  # nothing is left to try
    assert again.source == "known" and again.trials == 3


def test_an_interrupt_keeps_what_was_found(db) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sequential.tune({PROBLEM: 1}, db, TuneSettings(trials=4, report=stop), ONE_WORKER)
    assert db.lookup(machine.detect(), PROBLEM.key, PROBLEM.template_version).source is Source.EXACT
    assert [run.status for run in db.runs()] == ["interrupted"]


def test_a_budget_that_ends_before_the_first_trial_leaves_the_default(db) -> None:
    (result,) = sequential.tune({PROBLEM: 1}, db, TuneSettings(budget_s=0.0), ONE_WORKER)
    assert result.config == target.cpu().space(PROBLEM).default and result.best_ns > 0 and result.kept
    winner = db.lookup(machine.detect(), PROBLEM.key, PROBLEM.template_version).winner
    assert winner.config == dict(result.config) and winner.error <= winner.tolerance


def test_a_candidate_that_kills_its_worker_costs_one_trial(db, monkeypatch) -> None:
    ask, fatal = Worker.ask, []

    def killed(self, request, timeout_s):
        if isinstance(request, Measure) and request.config == (fatal or [request.config])[0]:
            fatal[:] = [request.config]
            os.kill(self._process.pid, signal.SIGSEGV)
        return ask(self, request, timeout_s)

    monkeypatch.setattr(Worker, "ask", killed)
    (result,) = sequential.tune({PROBLEM: 1}, db, TuneSettings(trials=3, sampler="exhaustive"), ONE_WORKER)
    outcomes = [t.outcome for t in db.past_trials(machine.detect(), PROBLEM.key, PROBLEM.template_version)]
    assert outcomes.count(Outcome.CRASHED) == 1 and outcomes.count(Outcome.OK) >= 2 and result.failed == 1


def test_a_wrong_candidate_never_counts(db, monkeypatch) -> None:
    ask, right = Worker.ask, ONE_WORKER.space(PROBLEM).default

    def wrong(self, request, timeout_s):
        reply, bad = ask(self, request, timeout_s), isinstance(request, Measure) and request.config != right
        return Wrong("relative error 1", 1.0) if bad else reply

    monkeypatch.setattr(Worker, "ask", wrong)
    (result,) = sequential.tune({PROBLEM: 1}, db, TuneSettings(trials=4, sampler="exhaustive"), ONE_WORKER)
    assert result.config == right and result.failed == 3


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    worker = Worker()
    worker.start()
    try:
        request, measure = Open("cpu", PROBLEM.key, 0, 1), Measure(Config({}), 1)
        opened = worker.ask(request, 60)
        assert isinstance(opened, Opened)
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimedOut):
            worker.ask(measure, 0.3)
        assert worker.ask(request, 60) == opened
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="signal 9"):
            worker.ask(measure, 10)
    finally:
        worker.stop()
