"""The verdict on untuned against tuned follows from paired rounds, and says so where they do not decide."""

import random
from dataclasses import replace

import pytest

from autotune.benchmarking.benchmark_result import PREFILL, SIDES, Decode, KernelTime, ModelBenchmark, Side, parse
from autotune.benchmarking.speedup import Speedup
from autotune.commands import bench


@pytest.mark.parametrize(
    ("untuned", "tuned", "said"),
    [
        ([100, 110, 50], [120, 121, 61], "tuned 1.20× untuned (1.10 to 1.22 in 3 rounds)"),
        ([100, 110, 50], [90, 99, 49], "tuned is slower, 0.90× untuned (0.90 to 0.98 in 3 rounds)"),
        ([100, 100, 100], [101, 99, 100], "no difference (0.99 to 1.01 in 3 rounds)"),
        (
            [309.7, 60, 300],
            [113.1, 300, 310],
            "not measurable now: rounds differ by more than the sides (0.37 to 5.00 in 3 rounds)",
        ),
        (
            [100, 100, 100],
            [105, 140, 400],
            "not measurable now: rounds differ by more than the sides (1.05 to 4.00 in 3 rounds)",
        ),
        ([100], [200], "tuned 2.00× untuned in a single round: no verdict"),
    ],
)
def test_verdicts(untuned, tuned, said) -> None:
    assert Speedup.of(untuned, tuned).verdict == said


@pytest.mark.parametrize("waits", [0.3, 1.0])
def test_other_work_between_the_sides_makes_neither_faster(waits) -> None:
    """Sides that are alike, five rounds, and a process that comes and goes: a side takes up to `waits` longer."""
    chance, wrong = random.Random(0), 0
    for _ in range(1000):
        sides = [[100.0 / (1.0 + chance.choice((0.0, waits)) * chance.random()) for _ in range(5)] for _ in range(2)]
        found = Speedup.of(*sides)
        wrong += found.measurable and not 1 / 1.05 < found.median < 1.05
    assert wrong < 30


@pytest.mark.parametrize(
    ("untuned", "tuned", "cell"),
    [
        ([100, 110, 50], [120, 121, 61], "1.20× (1.10–1.22)"),
        ([309.7, 60, 300], [113.1, 300, 310], "not measurable now (0.37–5.00)"),
        ([100, 100, 100], [101, 99, 100], "1.00× (0.99–1.01)"),
        ([100], [200], "2.00× in one round"),
    ],
)
def test_cells_of_tables(untuned, tuned, cell) -> None:
    assert Speedup.of(untuned, tuned).cell == cell


def _with_rounds(before: tuple[float, ...], after: tuple[float, ...], read: tuple[float, ...]) -> ModelBenchmark:
    result = _result(80_000, 1 << 30)
    sides = (replace(result.untuned, kernels=(KernelTime.of("token", 1, us, 80_000),)) for us in (before, after))
    untuned, tuned = sides
    return replace(result, untuned=untuned, tuned=tuned, read_rounds=read)


def test_kernels_whose_rounds_disagree_have_no_speedup(capsys) -> None:
    """Medians of 10 and 30 µs, but the first round saw the other side wait."""
    bench.print_benchmark(_with_rounds((40.0, 10.0, 9.0), (20.0, 30.0, 30.0), (5.0, 10.0)))
    out = capsys.readouterr().out
    assert "not measurable now (0.30–2.00)" in out
    assert "memory was read at 5.0 to 10.0 GB/s in the same rounds; other work held it back" in out


def test_kernels_of_quiet_rounds_have_one(capsys) -> None:
    result = _with_rounds((20.0, 21.0, 22.0), (10.0, 10.0, 11.0), (9.8, 10.0))
    bench.print_benchmark(result)
    out = capsys.readouterr().out
    assert "2.00× (2.00–2.10)" in out and "9.8 to 10.0 GB/s in the same rounds\n" in out
    assert parse(result.document()) == replace(result, sources={})
    assert parse(result.document()).read_rounds == (9.8, 10.0)


def test_rounds_that_took_no_time_are_no_ratio() -> None:
    assert _with_rounds((0.0, 1.0), (1.0, 1.0), ()).kernel_speedup("token") is None


def test_engines_that_did_not_alternate_are_said_to_have_not() -> None:
    assert "one after the other" in Speedup.of([1, 1], [2, 2], alternating=False).verdict


def _result(size: int, cache: int) -> ModelBenchmark:
    kernels = (KernelTime(KernelTime.TOKEN, 1, 10.0, size),)
    side = Side(5.0, {0: Decode(100.0, (90.0, 110.0), size, 1)}, kernels, (4.0, 6.0))
    settings = {"prompt": 8, "cache_bytes": cache}
    speedups = {0: Speedup((0.5, 3.0)), PREFILL: Speedup((1.5, 1.6))}
    return ModelBenchmark("m", "chip", "", 10.0, side, side, settings=settings, speedups=speedups)


@pytest.mark.parametrize(("cache", "reason"), [(1 << 30, bench.CACHED), (1 << 20, bench.BUSY)])
def test_a_share_above_100_percent_says_why(cache, reason, capsys) -> None:
    bench.print_benchmark(_result(200_000_000, cache))
    out = capsys.readouterr().out
    assert "200%*" in out and reason in out
    assert "90.0–110.0" in out and "decode after 0 tokens: not measurable now" in out
    assert "prefill: tuned 1.55× untuned (1.50 to 1.60 in 2 rounds)" in out


def test_a_share_above_100_percent_beside_uneven_reads_is_other_work(capsys) -> None:
    """Although so few bytes fit in the cache."""
    bench.print_benchmark(replace(_result(200_000_000, 1 << 30), read_rounds=(2.0, 10.0)))
    out = capsys.readouterr().out
    assert "200%*" in out and bench.BUSY in out and bench.CACHED not in out


def test_a_share_below_has_no_mark(capsys) -> None:
    bench.print_benchmark(_result(80_000, 1 << 30))
    assert "*" not in capsys.readouterr().out


def test_seconds_of_the_start_are_read_back_and_unknown_in_older_files() -> None:
    result = _result(1, 1)
    document = replace(result, tuned=replace(result.tuned, load_s=1.5, first_token_s=2.0)).document()
    read = parse(document)
    assert (read.tuned.load_s, read.tuned.first_token_s, read.untuned.load_s) == (1.5, 2.0, None)
    for side in SIDES:
        del document[side]["load_s"], document[side]["first_token_s"]
    assert parse(document).tuned.load_s is None
