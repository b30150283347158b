"""What the dashboard's tests share: databases, pages made from them, and one headless Chromium for all."""

import json
import lzma
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dashboard_samples as samples
import pytest
from click.testing import CliRunner, Result

from autotune.cli import cli
from autotune.dashboard import build

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="session")
def small_db(folder: Path) -> Path:
    """Three problems, one tuned twice; a report and a timeline; hostile names wherever a name comes from outside."""
    path = folder / "small.db"
    samples.record(path, runs=4, trials=12, problems=3, note=samples.HOSTILE)
    samples.store(
        path,
        [
            samples.profile(2, 12, name=f"{samples.HOSTILE}.ncu-rep", kernel=samples.HOSTILE),
            samples.timeline(kernel=samples.HOSTILE),
            samples.summed("a_long_name_of_a_file_" * 8 + ".csv", samples.HOSTILE),
        ],
    )
    return path


@pytest.fixture(scope="session")
def h200_db(folder: Path) -> Path:
    """What `autotune profile` left on an H200 before and after `autotune tune`."""
    path = folder / "h200.db"
    path.write_bytes(lzma.decompress((FIXTURES / "h200_profile.db.xz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def h200_page(folder: Path, h200_db: Path) -> Path:
    path = folder / "h200.html"
    path.write_text(build.html(h200_db), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def other_db(folder: Path) -> Path:
    """The same problems a tenth slower."""
    path = folder / "other.db"
    samples.record(path, runs=4, trials=12, problems=3, seed=1, drift=0.1, note=samples.HOSTILE)
    return path


@pytest.fixture(scope="session")
def bench_file(folder: Path) -> Path:
    path = folder / "bench.json"
    path.write_text(json.dumps(samples.bench(samples.HOSTILE)))
    return path


@pytest.fixture(scope="session")
def precision_file(folder: Path) -> Path:
    path = folder / "precision.json"
    path.write_text(json.dumps(samples.precision(samples.HOSTILE).document()))
    return path


@pytest.fixture(scope="session")
def small_page(folder: Path, small_db: Path, other_db: Path, bench_file: Path, precision_file: Path) -> Path:
    path = folder / "small.html"
    path.write_text(build.html(small_db, other_db, [bench_file], [precision_file]))
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Debian's Chromium, driven by Playwright; whoever lacks one of them skips these tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: ./scripts/setup_env test")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def autotune() -> Callable[..., Result]:
    """autotune("dashboard", ...) -> click's Result; a bug of ours keeps its traceback."""

    def call(*words: object) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture(scope="session")
def full_page(folder: Path, bench_file: Path) -> Path:
    """5,000 trials in 100 runs, 50 profiled kernels of 400 instructions."""
    database, path = folder / "full.db", folder / "full.html"
    samples.record(database, runs=100, trials=50, problems=40)
    samples.store(database, [samples.profile(50, 400), samples.timeline()])
    path.write_text(build.html(database, None, [bench_file]))
    return path
