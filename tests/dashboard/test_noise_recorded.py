"""An H100's kernels against themselves: five, their default and their winner, each in 21 processes one after the other
(`scripts/record_fixtures --only aa`), judged as the Compare page judges them."""

import itertools
import lzma
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from autotune.dashboard.collect import read_database
from autotune.dashboard.noise import compare, estimate_noise
from autotune.dashboard.page_data import RunData
from tuning_db.records import Measurement

FIXTURE = Path(__file__).parent.parent / "fixtures" / "h100_repeats.db.xz"
DEFAULT, WINNER = 0, 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[RunData, ...]:
    path = tmp_path_factory.mktemp("repeats") / "t.db"
    path.write_bytes(lzma.decompress(FIXTURE.read_bytes()))
    return read_database(path).runs


def times(runs, which: int) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = defaultdict(list)
    for run in runs:
        measurement = run.trials[which].trial.measurement
        assert measurement is not None
        found[run.stored.run.problem].append(measurement)
    return found


def against_themselves(runs, noise) -> Counter[str]:
    """Each process against the one before it."""
    series = [kernel for which in (DEFAULT, WINNER) for kernel in times(runs, which).values()]
    return Counter(compare(a, b, noise).word for kernel in series for a, b in itertools.pairwise(kernel))


def test_noise_at_least_95_times_in_100_by_what_earlier_repeats_taught(runs) -> None:
    """The band is learned from the first eleven processes, and 100 comparisons are of the ten after them."""
    learned, judged = runs[: 11 * 5], runs[10 * 5 :]
    noise = estimate_noise(learned)
    assert noise.between_runs and not noise.assumed
    found = against_themselves(judged, noise)
    assert found.total() == 100 and found["noise"] >= 95, found


def test_noise_at_least_95_times_in_100_by_what_is_supposed(runs) -> None:
    found = against_themselves(runs, estimate_noise([]))
    assert found.total() == 200 and found["noise"] >= 190, found


def test_what_is_15_percent_faster_is_better_in_every_process(runs) -> None:
    problem = next(p for p in times(runs, DEFAULT) if p.startswith("norm_qkv_rope"))
    pairs = zip(times(runs, DEFAULT)[problem], times(runs, WINNER)[problem], strict=True)
    assert {compare(a, b, estimate_noise(runs)).word for a, b in pairs} == {"better"}


def test_small_kernels_repeat_within_a_percent(runs) -> None:
    """All candidates of a problem use the same buffers; when each had its own, two captures differed by up to 8%."""
    for problem, measured in times(runs, DEFAULT).items():
        if problem.startswith(("norm_qkv_rope", "attention", "matvec")):
            medians = [m.median_ns for m in measured]
            assert max(medians) < 1.01 * min(medians), problem
