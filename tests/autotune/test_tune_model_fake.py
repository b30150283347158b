"""Both stages of tuning for a GPU, with real processes and a stand-in for the GPU behind the workers' protocol."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fake_gpu
import pytest
from fake_gpu import DEVICE, Layer, Part, Wide
from forked import Forked

from autotune.tuning import sequential, tune_model
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.tuner_base import Progress, TuneSettings
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import Measurement, Outcome, Source, TrialKind, Winner

SHORT, LONG = Layer(64, 256), Layer(64, 1024)
PROBLEMS = {**dict.fromkeys(SHORT.parts().values(), 4), Part("attention", 1024): 4, Part("head", 64): 1}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    fake_gpu.install(monkeypatch)


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db") as opened:
        yield opened


def test_what_wins_alone_is_not_what_wins_in_context(db) -> None:
    seen: list[Progress] = []
    settings = TuneSettings(sampler="exhaustive", report=seen.append)
    alone, layers = tune_model.tune(PROBLEMS, [SHORT, LONG], db, fake_gpu.target(), settings)
    for tuned in alone:
        assert tuned.config == {"rows": 4, "warps": 2, "ahead": 1} and tuned.best_ns == 1000.0 < tuned.default_ns
        assert (tuned.trials, tuned.failed) == (80, 10 if "qkv" in tuned.problem.key else 0)
    short, long = layers
    assert short.best_ns == 4000.0 < short.isolated_ns and long.best_ns == 4000.0
    assert short.default_ns > short.best_ns and short.share == pytest.approx(1e6 / 4000.0 / 3000.0)
    for layer, tuned in zip((SHORT, LONG), layers, strict=True):
        answer = db.lookup(DEVICE, layer.key, 1)
        assert answer.source is Source.EXACT and answer.winner.config == tuned.config
        assert answer.winner.measurement.median_ns == tuned.best_ns and answer.winner.default_ns == tuned.default_ns
    assert [p.stage for p in seen] == sorted(p.stage for p in seen) and {p.stage for p in seen} == {1, 2}
    # A layer of another context packs its weights alike: only attention may differ.
    differing = {name for name, value in short.config.items() if long.config[name] != value}
    assert differing == {"attention_warps"}
    assert [run.status for run in db.runs()] == ["finished"] * 8


def test_every_kind_of_failure_is_one_trial(db) -> None:
    (tuned,), _ = tune_model.tune(
        {Part("qkv", 1): 1}, [], db, fake_gpu.target(), TuneSettings(trials=None, budget_s=None, sampler="exhaustive")
    )
    outcomes = Counter(trial.outcome for trial in db.past_trials(DEVICE, Part("qkv", 1).key, 1))
    rematch = 5 if tuned.config != {"rows": 1} else 4
    assert outcomes == {
        Outcome.OK: 70 + rematch, Outcome.FAILED_TO_COMPILE: 4, Outcome.WRONG: 4, Outcome.CRASHED: 2,
    }  # fmt: skip
    crashed = [t.message for t in db.past_trials(DEVICE, Part("qkv", 1).key, 1) if t.outcome is Outcome.CRASHED]
    assert sum("illegal memory access" in m for m in crashed) == 1
    assert sum("the worker ended (3)" in m for m in crashed) == 1


def test_what_never_works_takes_no_winner_from_the_others(db, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_BROKEN", "out")
    problems = {Part(kind, 64): 1 for kind in ("out", "ffn", "head")}
    with pytest.raises(TuneError, match=r"kind=out.*: no configuration of 5 worked; the first: wrong, "):
        tune_model.tune(problems, [], db, fake_gpu.target(), TuneSettings(trials=5, budget_s=None))
    sources = {p.kind: db.lookup(DEVICE, p.key, 1).source for p in problems}
    assert sources["ffn"] is sources["head"] is Source.EXACT and sources["out"] is not Source.EXACT


def test_what_is_not_compiled_in_time_is_said_and_left(db, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "300")
    monkeypatch.setattr(sequential, "GRACE_S", 0.0)
    told: list[str] = []
    alone, _ = tune_model.tune(
        {Part("ffn", 64): 1}, [], db, fake_gpu.target(), TuneSettings(budget_s=0.5, tell=told.append)
    )
    assert alone == [] and told == [
        f"{Part('ffn', 64).key}: not tuned, nothing was compiled in time; --budget gives it more"
    ]


def test_what_is_known_from_machine_code_is_not_measured(db, tmp_path, monkeypatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_FACTS", "1")
    part = Part("out", 64)
    (tuned,), _ = tune_model.tune(
        {part: 1}, [], db, fake_gpu.target(), TuneSettings(trials=None, budget_s=None, sampler="exhaustive")
    )
    trials = [t for t in db.past_trials(DEVICE, part.key, 1) if t.kind is TrialKind.SEARCH]
    duplicates = [t for t in trials if (t.message or "").startswith("the same machine code as ")]
    pruned = [t for t in trials if t.outcome is Outcome.PRUNED]
    assert len(trials) == 80 and {t.config["rows"] for t in pruned} == {16} and len(duplicates) + len(pruned) > 60
    assert all("by issue; the best takes" in t.message and t.measurement is None for t in pruned)
    for duplicate in duplicates:
        of = json.loads(duplicate.message.removeprefix("the same machine code as "))
        (measured,) = [t for t in trials if t.config == of]
        assert (measured.config["rows"], measured.config["warps"]) == (
            duplicate.config["rows"],
            duplicate.config["warps"],
        )
        assert duplicate.measurement == measured.measurement and measured.message is None
    measured = [line for line in log.read_text().splitlines() if line.startswith("measure ")]
    assert len(measured) == 80 - len(duplicates) - len(pruned)
    assert (tuned.trials, tuned.failed) == (80, 0)
    assert tuned.config["rows"] == 4 and tuned.config["warps"] == 2


def test_a_part_proved_before_is_not_proved_again(db, tmp_path, monkeypatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    tune_model.tune(PROBLEMS, [SHORT], db, fake_gpu.target(), TuneSettings(trials=30, budget_s=None))
    pairs = [line.split()[:2] for line in log.read_text().splitlines() if line.startswith("pair")]
    proved = [d for d in pairs if d[1] == "True"]
    assert 0 < len(proved) < len(pairs)
    configs = [line.partition(" {")[2] for line in log.read_text().splitlines() if line.startswith("pair")]
    fatal = ('"qkv_ahead":1', '"qkv_rows":16', '"qkv_warps":8')
    kills = [c for c in configs if all(word in c for word in fatal)]  # what kills a worker is asked again
    assert len(set(configs)) == len(configs) - (len(kills) - len(set(kills)))  # and nothing else is tried twice


def test_a_combination_that_is_wrong_together_never_wins(db, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_TOGETHER_WRONG", "1")
    _, (tuned,) = tune_model.tune(PROBLEMS, [SHORT], db, fake_gpu.target(), TuneSettings(budget_s=None, trials=40))
    assert not tuned.config["qkv_rows"] == tuned.config["out_rows"] == 2
    assert db.lookup(DEVICE, SHORT.key, 1).winner.config == tuned.config


def test_an_interrupt_in_context_keeps_the_best_and_goes_on(db) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if sum(p.stage == 2 for p in seen) == 6:
            raise KeyboardInterrupt

    where = fake_gpu.target()
    with pytest.raises(KeyboardInterrupt):
        tune_model.tune(PROBLEMS, [SHORT], db, where, TuneSettings(trials=20, budget_s=None, report=stop))
    kept = db.lookup(DEVICE, SHORT.key, 1)
    assert kept.source is Source.EXACT and kept.winner.error <= kept.winner.tolerance
    assert [run.status for run in db.runs()][-1] == "interrupted"
    before = {Config(t.config) for t in db.past_trials(DEVICE, SHORT.key, 1)}
    assert len(before) == 6

    _, (tuned,) = tune_model.tune(PROBLEMS, [SHORT], db, where, TuneSettings(trials=20, budget_s=None))
    last = db.runs()[-1]
    again = [t for t in db.trials(last.id) if t.kind is TrialKind.SEARCH]
    repeated = [t for t in again if Config(t.config) in before]
    assert len(repeated) <= 2  # where it starts, and the winner that was kept
    assert tuned.best_ns <= kept.winner.measurement.median_ns


def tune_short(say: Callable[[object], None], path: Path) -> None:
    """Says the stage of each trial."""
    for problem in (Part, Layer):
        registry.OPERATIONS[problem.op] = fake_gpu.operation(problem)
    settings = TuneSettings(trials=8, report=lambda p: say(p.stage))
    with open_db(path) as db:
        tune_model.tune(dict.fromkeys(SHORT.parts().values(), 1), [SHORT], db, fake_gpu.target(), settings)


def test_a_killed_run_loses_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SLOW", "0.01")
    process, stages = Forked(tune_short, tmp_path / "k.db"), []
    while stages.count(2) < 4:
        stages.append(process.hear())
    process.kill()
    process.wait()
    with open_db(tmp_path / "k.db", readonly=True) as db:
        assert len(db.past_trials(DEVICE, SHORT.key, 1)) >= 4
        assert db.lookup(DEVICE, SHORT.key, 1).source is Source.EXACT
        assert db.runs()[-1].status == "interrupted"


@pytest.mark.parametrize("budget_s", [1.5, pytest.param(10.0, marks=pytest.mark.timing)])
def test_the_budget_holds_and_both_stages_get_some(db, monkeypatch, budget_s) -> None:
    monkeypatch.setenv("FAKE_SLOW", "0.02")
    begun = time.monotonic()
    alone, layers = tune_model.tune(PROBLEMS, [SHORT, LONG], db, fake_gpu.target(), TuneSettings(budget_s=budget_s))
    spent = time.monotonic() - begun
    assert budget_s < 10.0 or spent < 16.0
    assert len(alone) == 6 and len(layers) == 2
    assert all(tuned.trials < 80 for tuned in alone) and "budget" in {run.status for run in db.runs()}


def test_a_winner_of_another_chip_is_proposed_and_nothing_more(db, tmp_path, monkeypatch) -> None:
    """Alone it is tried early; it is neither a start in context nor found by whoever looks it up."""
    other = Device("cuda", "Fake 50", "8.0", 64, 24 << 30, DEVICE.versions)
    measured = Measurement(1.0, 1.0, 1.0, 9)
    strange = {"rows": 8, "warps": 8, "ahead": 4}
    part, chain = Part("qkv", 64), {f"{q}_{n}": v for q in SHORT.parts() for n, v in strange.items()}
    chain["finish"] = "here"
    db.set_winner(other, Winner(part.key, 1, strange, measured, None, 0.0, 1.0), None, None)
    db.set_winner(other, Winner(SHORT.key, 1, chain, measured, None, 0.0, 1.0), None, None)
    for key in (part.key, SHORT.key):
        answer = db.lookup(DEVICE, key, 1)
        assert answer.winner is None and "tuned only on another chip" in answer.detail
        assert "chip Fake 50 → Fake 100" in answer.detail

    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    tune_model.tune({part: 1}, [], db, fake_gpu.target(), TuneSettings(trials=6, budget_s=None))
    tune_model.tune({}, [SHORT], db, fake_gpu.target(), TuneSettings(budget_s=0.0))
    tried = [json.loads(line[line.index("{") :]) for line in log.read_text().splitlines()]
    assert chain not in tried and strange in tried[:4]
    assert db.lookup(other, part.key, 1).winner.config == strange  # and the other chip still has it


def test_no_part_has_to_be_tuned_before(db) -> None:
    _, (tuned,) = tune_model.tune({}, [SHORT], db, fake_gpu.target(), TuneSettings(budget_s=None))
    assert tuned.best_ns == 4000.0 and tuned.isolated_ns == tuned.default_ns


def test_kernels_are_tried_together_while_others_compile(db, monkeypatch) -> None:
    """Mixtures of compiled kernels, for which nothing is compiled: the measurer would idle."""
    monkeypatch.setenv("FAKE_COMPILE", "0.02")
    tune_model.tune({}, [SHORT], db, fake_gpu.target(), TuneSettings(budget_s=None))
    default = fake_gpu.space(SHORT).default
    tried = [t for t in db.past_trials(DEVICE, SHORT.key, 1) if t.compile_s == 0.0 and t.outcome is Outcome.OK]
    parts = [{name.partition("_")[0] for name, value in t.config.items() if default[name] != value} for t in tried]
    assert any(len(changed) > 1 for changed in parts)


@pytest.mark.timing
def test_compilers_are_never_waited_for(db, monkeypatch) -> None:
    """Slow compilers, inputs that take long: many more configurations than one worker could, and in time."""
    monkeypatch.setenv("FAKE_COMPILE", "0.8")
    monkeypatch.setenv("FAKE_SLOW", "0.01")
    monkeypatch.setenv("FAKE_OPEN", "1.0")
    begun = time.monotonic()
    alone, layers = tune_model.tune(
        PROBLEMS, [SHORT, LONG], db, fake_gpu.target(compilers=8), TuneSettings(budget_s=30.0)
    )
    spent = time.monotonic() - begun
    assert spent < 35.0 and sum(t.trials for t in (*alone, *layers)) > 100


def test_passes_come_last_and_leave_decoding_most_of_the_time(db, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_SLOW", "0.01")
    passes, seen = {Part("ffn", 2048): 4, Part("out", 2048): 4}, []
    settings = TuneSettings(budget_s=4.0, report=seen.append)
    alone, layers = tune_model.tune(PROBLEMS, [SHORT], db, fake_gpu.target(), settings, passes=passes)
    assert "budget" in {run.status for run in db.runs()}, "it ended the search, not the space"
    assert [tuned.problem for tuned in alone] == [*PROBLEMS, *passes] and len(layers) == 1
    assert all(tuned.count == 4 for tuned in alone[-2:])
    of_passes = [p.problem in passes for p in seen]
    assert of_passes == sorted(of_passes) and any(of_passes), "nothing of a token after the first of a pass"
    for problem in passes:
        assert db.lookup(DEVICE, problem.key, 1).source is Source.EXACT


def test_passes_alone_have_the_whole_budget(db) -> None:
    passes = {Part("ffn", 2048): 4}
    (tuned,), layers = tune_model.tune({}, [], db, fake_gpu.target(), TuneSettings(sampler="exhaustive"), passes=passes)
    assert tuned.trials == 80 and not layers


def test_passes_of_as_many_tokens_are_tuned_side_by_side(db, tmp_path, monkeypatch) -> None:
    """Few tokens first; a configuration goes to other shapes of as many tokens, not of more."""
    monkeypatch.setenv("FAKE_SLOW", "0.01")
    passes = {Wide(kind, 64, tokens): 2 for tokens in (2048, 16) for kind in ("ffn", "out")}
    seen: list[Progress] = []
    tuned, _ = tune_model.tune({}, [], db, fake_gpu.target(), TuneSettings(trials=5, report=seen.append), passes=passes)
    assert [t.problem for t in tuned] == list(passes) and all(t.trials >= 5 for t in tuned)
    tokens = [p.problem.tokens for p in seen]
    assert tokens == sorted(tokens) and set(tokens) == {16, 2048} and all(p.of == 2 for p in seen)
    assert Wide("ffn", 64, 16).rows_at_once == 16 and Part("ffn", 64).rows_at_once == 1


def test_shares_of_the_budget() -> None:
    assert tune_model.token_share(True, False) == 1.0 and tune_model.token_share(False, True) == 0.0
    assert tune_model.token_share(True, True) == 1.0 - tune_model.PASSES > 0.5 and not tune_model.token_share(
        False, False
    )
