"""`scripts/bench_start`: a real start of the real command line, and medians over what is known."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_start


def test_a_cold_and_a_warm_start_are_measured(tiny_model):
    runs = bench_start.measure(tiny_model, {"here": bench_start.ROOT}, range(1), 1)["here"][0]
    cold, warm = runs["cold"][0], runs["warm"][0]
    assert warm["cpu_s"] < cold["cpu_s"], "nothing is compiled again"
    for run in (cold, warm):
        assert 0 < run["first_token_s"] < run["wall_s"] and run["peak_mb"] > 20


def test_medians_are_over_what_is_known():
    runs = [{"wall_s": 1.0, "first_token_s": None}, {"wall_s": 3.0, "first_token_s": None}]
    assert bench_start.summary(runs) == {
        "wall_s": {"median": 2.0, "samples": [1.0, 3.0]}, "first_token_s": {"median": None, "samples": []}
    }  # fmt: skip
