"""Searching takes one thread and no torch: a tuning run's compilers want every core."""

import subprocess
import sys

import numpy as np
from scipy.optimize import approx_fprime
from threadpoolctl import threadpool_info, threadpool_limits

from autotune.samplers import gaussian_process
from autotune.samplers.gp_search import GPSearch
from autotune.samplers.single_thread import single_thread
from autotune.samplers.study import Search
from kernel_templates.space import Parameter, Space

REPLAYED = """
import sys
from click.testing import CliRunner
from autotune.cli import cli
done = CliRunner().invoke(cli, ["replay", sys.argv[1], "--trials", "12", "--seeds", "1"])
assert "after 12 evaluations" in done.output, done.output
assert "torch" not in sys.modules
"""


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info()]


def test_libraries_get_their_threads_back() -> None:
    with threadpool_limits(3):
        before = threads()
        with single_thread():
            with single_thread():
                assert set(threads()) == {1}
            assert set(threads()) == {1}
        assert threads() == before and 3 in before


def test_the_model_is_asked_with_one_thread(monkeypatch) -> None:
    seen = []
    predict = gaussian_process.GaussianProcess.predict

    def watched(process, y):
        seen.extend(threads())
        return predict(process, y)

    monkeypatch.setattr(gaussian_process.GaussianProcess, "predict", watched)
    direct = GPSearch([list(range(40))], seed=1)
    space = Space((Parameter("a", tuple(range(40)), 20, "a number"),))
    searched = Search(space, "pool", configs=space.configs())
    with threadpool_limits(3):
        for _ in range(8):
            row, config = direct.ask(), searched.ask()
            direct.tell(row, 1.0 + abs(row - 30))
            searched.tell(config, 1.0 + abs(config["a"] - 30))
    assert set(seen) == {1}


def test_a_replay_imports_no_torch(tmp_path) -> None:
    path = tmp_path / "space.csv"
    path.write_text(
        "a,b,time_ms\n" + "".join(f"{a},{b},{1 + abs(a - 5) + b / 10}\n" for a in range(9) for b in range(9))
    )
    done = subprocess.run([sys.executable, "-c", REPLAYED, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_gradient_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 3)), rng.standard_normal(12)
    squares = np.square(x[:, None] - x[None]).reshape(-1, 3)
    p = np.array([-0.5, 0.2, 0.8, -3.0])
    _, gradient = gaussian_process.loss(p, squares, y)
    assert np.allclose(gradient, approx_fprime(p, lambda q: gaussian_process.loss(q, squares, y)[0], 1e-7), rtol=1e-4)


def test_points_added_one_by_one_are_as_good_as_all_at_once() -> None:
    points = np.random.default_rng(1).random((50, 2))
    y = np.sin(3 * points[:20, 0]) - points[:20, 1]
    whole, grown = gaussian_process.GaussianProcess(points), gaussian_process.GaussianProcess(points)
    whole.know(list(range(20)))
    for count in (5, 6, 7, 20):
        grown.know(list(range(count)))
    for one, other in zip(whole.predict(y), grown.predict(y), strict=True):
        assert np.allclose(one, other, atol=1e-3)
    mean, deviation = whole.predict(y)
    assert np.allclose(mean[:20], y, atol=0.05) and deviation[:20].max() < deviation[20:].max()
