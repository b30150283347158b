"""The score of a sampler, against counting every draw; a folder without spaces."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_search

    yield bench_search
    sys.modules.pop("bench_search", None)


def test_the_best_expected_of_random_draws_is_exact(bench) -> None:
    times = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.5])
    for k, found in enumerate(bench.expected_best(times, 6), 1):
        assert found == pytest.approx(np.mean([min(drawn) for drawn in itertools.combinations(times, k)]))


def test_all_orders_score_0_and_the_optimum_at_once_1(bench) -> None:
    times = np.array([3.0, 1.0, 4.0, 2.0, 9.0])
    assert bench.score(times, list(itertools.permutations(range(5))), 4) == pytest.approx(0.0, abs=1e-12)
    assert bench.score(times, [(1, 0, 2, 3)], 4) == 1.0 > bench.score(times, [(4, 2, 0, 3)], 4)


def test_a_folder_without_spaces_is_one_line(bench, tmp_path) -> None:
    done = CliRunner().invoke(bench.main, [str(tmp_path / "none")])
    assert done.exit_code == 2 and "has no recorded spaces" in done.output


def test_the_plot_has_a_line_for_every_sampler(bench, tmp_path) -> None:
    found = {"mean_best_ms": {"1": 3.0, "10": 2.0, "100": 1.5}}
    samplers = {f"sampler {n}": found for n in range(8)} | {"failed": {"error": "no row"}}
    bench.draw({"spaces": {"matvec": {"best_ms": 1.0, "samplers": samplers}}}, tmp_path / "search.svg")
    text = (tmp_path / "search.svg").read_text()
    assert text.count('<path class="line') == 8 and "sampler 7 (dashed)" in text and "failed" not in text
