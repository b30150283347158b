"""Winners of a noisy machine: never slower than what ran untuned, never out of another's claim, and counted once."""

import json
import math
import random
from dataclasses import replace

import fake_gpu
import pytest
from click.testing import CliRunner
from fake_gpu import DEVICE, Part

from autotune.cli import cli
from autotune.tuning import tune_model
from autotune.tuning.layer_tuner import best_alone
from autotune.tuning.tuner_base import TuneSettings
from autotune.tuning.verdict import BORROWED, DEFAULT, Rounds, decide
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.explain import explain
from tuning_db.records import Measurement, Objective, Outcome, Run, RunStatus, Trial, TrialKind, Winner

A, B, C = (Config({"rows": rows}) for rows in (1, 2, 4))
UNTUNED = Config({"rows": 1, "warps": 4, "ahead": 1})


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    fake_gpu.install(monkeypatch)


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db") as opened:
        yield opened


def rounds(factors: dict[Config, float], count: int, spread: float, seed: int = 0) -> Rounds:
    """What a machine of so much noise measures of configurations whose true times are given."""
    chance = random.Random(seed)
    moments = [math.exp(chance.gauss(0, 3 * spread)) for _ in range(count)]

    def sampled(factor: float) -> list[float]:
        return [factor * moment * math.exp(chance.gauss(0, spread)) for moment in moments]

    samples = {config: sampled(factor) for config, factor in factors.items()}
    again = sampled(next(iter(factors.values())))
    return Rounds(samples, again, {config: sorted(times)[count // 2] for config, times in samples.items()})


def test_a_clear_gain_wins_and_an_unclear_one_does_not() -> None:
    always = dict.fromkeys((A,), DEFAULT)
    assert decide(rounds({A: 100.0, B: 99.0}, 15, 0.0), always, lambda c: True).config == B
    assert decide(rounds({A: 100.0, B: 70.0}, 15, 0.05), always, lambda c: True).config == B
    kept = decide(rounds({A: 100.0, B: 99.0}, 15, 0.1), always, lambda c: True)
    assert (kept.config, kept.kept) == (A, DEFAULT) and kept.reason.startswith("default kept: ")
    few = decide(rounds({A: 100.0, B: 50.0}, 3, 0.0), always, lambda c: True)
    assert few.config == A  # of three rounds nothing follows
    assert decide(rounds({A: 100.0, B: 50.0}, 15, 0.0), always, lambda c: c == A).config == A


def test_what_seems_faster_and_may_be_chance_is_not_measurable_now() -> None:
    kept = decide(rounds({A: 100.0, B: 70.0}, 15, 0.3), {A: DEFAULT}, bool)
    assert kept.config == A and kept.unclear and "default kept: not measurable now; the best other took" in kept.reason
    slower = decide(rounds({A: 100.0, B: 170.0}, 15, 0.05), {A: DEFAULT}, bool)
    assert "measurable" not in slower.reason


def test_a_result_says_whether_its_gain_is_more_than_chance(db) -> None:
    (tuned,) = tune_model.tune({Part("out", 1): 1}, [], db, fake_gpu.target(), TuneSettings(sampler="exhaustive"))[0]
    assert tuned.default is not None and tuned.best_ns < tuned.default_ns
    assert tuned.measurable and 1.0 <= tuned.least_speedup < tuned.default_ns / tuned.best_ns
    assert not replace(tuned, least_speedup=1.01 * tuned.default_ns / tuned.best_ns).measurable
    assert replace(tuned, default=None).measurable, "there is nothing to compare"


def test_what_is_borrowed_is_kept_unless_the_default_is_faster() -> None:
    for factor, config, kept in ((90.0, B, BORROWED), (110.0, A, DEFAULT)):
        found = rounds({A: 100.0, B: factor, C: 100.0}, 15, 0.0)
        verdict = decide(found, {B: BORROWED, A: DEFAULT}, lambda c: True)
        assert (verdict.config, verdict.kept) == (config, kept)
    noisy = decide(rounds({A: 100.0, B: 101.0, C: 100.5}, 15, 0.3), {B: "shipped configuration", A: DEFAULT}, bool)
    assert noisy.config == B  # proved faster than the default where it was tuned, and nothing here says otherwise


def test_chance_makes_nothing_faster_than_the_default() -> None:
    wrong = 0
    for seed in range(400):
        spread = 0.02 + 0.4 * (seed % 7) / 7
        wrong += bool(decide(rounds({A: 100.0, B: 103.0, C: 105.0}, 15, spread, seed), {A: DEFAULT}, bool).kept == "")
    assert wrong <= 1


def test_of_fifty_noisy_searches_none_ends_slower_than_the_default(db, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_NOISE", "0.25")
    problems = {Part(kind, size): 1 for kind in ("untuned", "out") for size in range(25)}
    alone, _ = tune_model.tune(problems, [], db, fake_gpu.target(), TuneSettings(trials=8))
    assert len(alone) == 50
    for tuned in alone:
        default_ns = fake_gpu.time_ns(tuned.problem, UNTUNED)
        assert fake_gpu.time_ns(tuned.problem, tuned.config) <= 1.02 * default_ns, tuned
        if tuned.config == UNTUNED:
            assert tuned.kept == DEFAULT and "default kept" in tuned.reason
    untuned = next(tuned for tuned in alone if tuned.problem.kind == "untuned")
    assert untuned.kept == DEFAULT
    assert any("default kept" in line for line in explain(db, DEVICE, untuned.problem.key, 1).sentences())


def test_a_winner_far_slower_than_before_is_measured_again(db) -> None:
    part = Part("out", 1)
    best = {"rows": 4, "warps": 2, "ahead": 1}
    _past(db, part, [_trial(best, 100.0)], "here")
    (tuned,) = tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(sampler="exhaustive"))[0]
    assert tuned.config == best and "measured again, for 1.00 µs came after " in tuned.reason
    assert any("measured again" in line for line in explain(db, DEVICE, part.key, 1).sentences())


def test_what_was_tried_before_a_parameter_is_not_forgotten(db, monkeypatch) -> None:
    newer = tuple(replace(p, formerly=1) if p.name == "ahead" else p for p in fake_gpu.PARAMETERS)
    monkeypatch.setattr(fake_gpu, "PARAMETERS", newer)
    part, best = Part("out", 1), {"rows": 4, "warps": 2}
    wrong = Trial({"rows": 2, "warps": 2}, Outcome.WRONG, message="wrong")
    _past(db, part, [_trial(best, 100.0), wrong], "here")
    assert best_alone(db, fake_gpu.target(), part, 6) == [{**best, "ahead": 1}, UNTUNED]
    (tuned,) = tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(sampler="exhaustive"))[0]
    assert (tuned.trials, tuned.failed) == (80, 1) and "came after 0.10 µs" in tuned.reason
    assert not [t for t in db.past_trials(DEVICE, part.key, 1) if t.config == {**wrong.config, "ahead": 1}]


def test_an_interrupted_search_makes_no_winner_of_what_others_claim(db) -> None:
    part, seen = Part("out", 64), []
    forged = {"rows": 16, "warps": 8, "ahead": 4}
    _past(db, part, [_trial(forged, 1.0, 1e9)], "elsewhere")

    def interrupt(progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(report=interrupt))
    (stored,) = db.winners(DEVICE)
    assert stored.winner.config != forged and stored.winner.tolerance == fake_gpu.TOLERANCE
    assert stored.winner.measurement.median_ns == fake_gpu.time_ns(part, stored.winner.config)


def test_an_interrupted_search_leaves_what_is_borrowed(db) -> None:
    near, part = Part("out", 32), Part("out", 64)
    measurement = Measurement(999.0, 1000.0, 1001.0, 7)
    best = {"rows": 4, "warps": 2, "ahead": 1}
    db.set_winner(DEVICE, Winner(near.key, 1, best, measurement, 1500.0, 0.001, 0.01), None, None)

    def interrupt(progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(report=interrupt))
    assert db.lookup(DEVICE, part.key, 1).winner.config == best


def test_the_final_comparison_adds_no_trials(db, tmp_path) -> None:
    part = Part("out", 64)
    (tuned,) = tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(trials=5))[0]
    (again,) = tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(trials=5))[0]
    assert tuned.trials == again.trials == 5
    run = db.runs()[0]
    assert run.trials == 5 and db.info()["trials"] == 5
    assert sum(trial.kind is TrialKind.FINAL_COMPARISON for trial in db.trials(run.id)) >= 4
    assert explain(db, DEVICE, part.key, 1).trials == 5
    listed = CliRunner().invoke(cli, ["db", "list", "--runs", "--json", "--db", str(db.path)])
    assert [r["trials"] for r in json.loads(listed.stdout)["runs"]] == [5, 0]
    out = tmp_path / "run.json"
    exported = CliRunner().invoke(cli, ["export", "--db", str(db.path), "--run", str(run.id), "--out", str(out)])
    assert exported.exit_code == 0, exported.output
    configs = [json.dumps(result["configuration"], sort_keys=True) for result in json.loads(out.read_text())["results"]]
    assert len(configs) == len(set(configs)) and 5 <= len(configs) <= 6
    replayed = CliRunner().invoke(cli, ["replay", str(out), "--trials", "3"])
    assert replayed.exit_code == 0, replayed.output


def _trial(config: dict, ns: float, tolerance: float = 0.01) -> Trial:
    return Trial(config, Outcome.OK, Measurement(ns, ns, ns, 7), 1.0, 0.001, tolerance)


def _past(db, part: Part, trials: list[Trial], sampler: str) -> None:
    run = Run(part.key, 1, sampler, 0, 80, 1_000_000, 1_000_000, {}, Objective.TIME)
    db.add_run(DEVICE, run, trials, RunStatus.FINISHED.value, None, None)
