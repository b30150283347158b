"""Better, worse or noise; which parameter matters; round numbers on axes."""

import math
import random
from pathlib import Path

import dashboard_samples as samples
import pytest

from autotune.dashboard.collect import read_database
from autotune.dashboard.importance import importance
from autotune.dashboard.noise import LEAST, Noise, compare, estimate_noise
from autotune.dashboard.pages.compare import best_measurement
from autotune.dashboard.scales import scale
from tuning_db import open_db
from tuning_db.records import Measurement, Outcome, Run, Trial, TrialKind


def measured(rng: random.Random, time: float, drift: float, jitter: float = 0.002) -> Measurement:
    """7 executions that scatter by `jitter`, all of them off by one draw of `drift`: what separates two runs."""
    center = time * math.exp(rng.gauss(0, drift))
    ordered = sorted(center * (1 + rng.gauss(0, jitter)) for _ in range(7))
    return Measurement(ordered[0], ordered[3], ordered[-1], 7)


@pytest.mark.parametrize("drift", [0.004, 0.02])
def test_the_same_twice_is_noise_and_a_tenth_is_not(tmp_path: Path, drift: float):
    """The band is learned from repeats in the database, whatever the drift; of 400 A/A pairs 95% are noise."""
    rng = random.Random(5)
    with open_db(tmp_path / "aa.db") as db:
        for _ in range(2):
            run = db.begin_run(samples.H100, Run("matvec:rows=1,cols=1,format=Q4_0", 1, "pool", 0, 100, 1, 1))
            for place in range(120):
                time = 1000.0 + place
                db.record_trial(run, Trial({"tile": place}, Outcome.OK, measured(rng, time, drift), 0.1, 1e-5, 1e-2))
            db.finish_run(run, "finished")
    noise = estimate_noise(read_database(tmp_path / "aa.db").runs)
    assert noise.between_runs and noise.count == 120 and not noise.assumed
    same = [compare(measured(rng, 1500, drift), measured(rng, 1500, drift), noise).word for _ in range(400)]
    assert same.count("noise") >= 380
    other = [
        compare(measured(rng, 1500, drift), measured(rng, 1500 * (1 - 5 * drift), drift), noise).word
        for _ in range(400)
    ]
    assert other.count("better") >= 340 and "worse" not in other


def test_a_single_measurement_taken_with_care_is_not_trusted_more_than_the_repeats():
    exact = Measurement(1000.0, 1000.0, 1000.0, 10_000)
    close = Measurement(985.0, 985.0, 985.0, 10_000)
    assert compare(exact, close, Noise(0.02, 100, True)).word == "noise"
    assert compare(exact, close, Noise(0.01, 100, True)).word == "better"


def test_few_repeats_are_not_believed(small_db):
    runs = read_database(small_db).runs
    found = estimate_noise(runs[:1])
    assert found.assumed and found.count < LEAST and found.band == 0.05


def test_the_final_comparison_counts_where_there_was_one(tmp_path: Path):
    with open_db(tmp_path / "one.db") as db:
        run = db.begin_run(samples.H100, Run("matvec:rows=1,cols=1,format=Q4_0", 1, "pool", 0, 100, 1, 1))
        for time, kind in ((900.0, TrialKind.SEARCH), (1000.0, TrialKind.FINAL_COMPARISON)):
            measured = Measurement(time, time, time, 7)
            db.record_trial(run, Trial({"tile": 1}, Outcome.OK, measured, 0.1, 0.0, 1.0, kind=kind))
    assert best_measurement(read_database(tmp_path / "one.db").runs[0]).median_ns == 1000.0


def test_both_evaluators_find_what_was_planted():
    rng = random.Random(3)
    trials = []
    for _ in range(150):
        config = {"tile": rng.choice((16, 32, 64)), "warps": rng.choice((2, 4)), "kind": rng.choice(("a", "b"))}
        trials.append((config, {16: 3000.0, 32: 2000.0, 64: 1000.0}[config["tile"]] + rng.uniform(0, 100)))
    found = importance(trials)
    assert next(iter(found.fanova)) == next(iter(found.ped_anova)) == "tile"
    assert found.fanova["tile"] > 0.9 and sum(found.ped_anova.values()) == pytest.approx(1)
    best = {s.value: s.best_ns for s in found.slices["tile"]}
    assert best[64] == min(time for _, time in trials) and sum(s.count for s in found.slices["tile"]) == 150


def test_too_few_trials_give_slices_and_no_importance():
    found = importance([({"tile": 16, "warps": 2}, 1.0), ({"tile": 32, "warps": 2}, 2.0)])
    assert found.fanova is None and found.ped_anova is None and list(found.slices) == ["tile"]


@pytest.mark.parametrize("values", [[3, 97], [0.0012, 0.0019], [1e6, 3.4e7], [5, 5], [0], [-3, 8]])
def test_an_axis_holds_its_values_between_round_numbers(values):
    axis = scale(values, 0, 100)
    assert axis.low <= min(values) and axis.high >= max(values) and 2 <= len(axis.ticks) <= 9
    assert all(0 <= axis(value) <= 100 for value in values)
    steps = [b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps))


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    axis = scale([0.0, float("nan"), 10, 20_000], 0, 100, log=True)
    assert 0 < axis.low < 10 and axis.ticks == (10, 100, 1000, 10_000)
    assert axis(math.sqrt(10 * 20_000)) == pytest.approx(50, abs=0.2)
