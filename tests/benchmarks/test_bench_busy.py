"""`scripts/bench_busy`: shares of a side's own speed alone, and busy processes that end."""

import sys
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_busy


def test_shares_are_of_the_median_alone():
    rates = {"here": {"decode": {0: [100.0, 90.0, 400.0], 1: [50.0, 60.0, 70.0]}}}
    found = bench_busy.summary(rates)["here"]["decode"]
    assert found["0"]["of_alone"] == 1.0 and found["1"] == {
        "median": 60.0, "of_alone": 0.6, "samples": [50.0, 60.0, 70.0]
    }  # fmt: skip


def test_busy_processes_end():
    before = {child.pid for child in psutil.Process().children()}
    with bench_busy.busy(2):
        assert len({child.pid for child in psutil.Process().children()} - before) == 2
    assert {child.pid for child in psutil.Process().children()} - before == set()
