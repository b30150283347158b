"""The quick interpreter gives what Triton's own gives, bit for bit, and refuses what that refuses."""

from collections.abc import Iterator

import pytest
import quick_interpreter
import test_interp_bounds
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterError

ROWS, COLS = 4, 8


@triton.jit
def largest(a, i, b, j):
    other = b > a
    return tl.where(other, b, a), tl.where(other, j, i)


@triton.jit
def mixed(x, y):
    """Promotion, broadcasting, shifts and casts, in a function of its own."""
    pairs = tl.join(x, y)
    left, right = tl.split(pairs)
    return ((left << 2) ^ (right >> 1)) + (left * right).to(tl.int8)


@triton.jit
def kernel(floats, ints, out, sums, places, COLS: tl.constexpr, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    at = row * COLS + tl.arange(0, COLS)[None, :]
    x = tl.load(floats + at, mask=at % 3 != 0, other=2.0)
    n = tl.load(ints + at)
    half = x.to(tl.float16) * 3
    brain = (x - 0.5).to(tl.bfloat16).to(tl.float32)
    y = tl.where(n > 0, tl.sqrt(tl.abs(half.to(tl.float32))), brain / 7) + tl.sum(x, 1)[:, None]
    best, place = tl.reduce((y, at), 1, largest)
    tl.store(sums + tl.arange(0, ROWS), best)
    tl.store(places + tl.arange(0, ROWS), place)
    z = mixed(n, (n.to(tl.uint32, bitcast=True) >> 5).to(tl.int32))
    tl.store(out + at, y + z.to(tl.float32) + tl.program_id(0))


@triton.jit
def of_no_power_of_two(out):
    tl.store(out + tl.arange(0, 2), tl.zeros((3,), tl.float32))


@triton.jit
def of_unlike_shapes(out):
    tl.store(out + tl.arange(0, 2), tl.zeros((4,), tl.float32) + tl.zeros((2,), tl.float32))


def run(floats: list[float], ints: list[int]) -> tuple[torch.Tensor, ...]:
    out, sums = torch.full((ROWS * COLS,), torch.nan), torch.full((ROWS,), torch.nan)
    places = torch.full((ROWS,), -1, dtype=torch.int32)
    given = torch.tensor(floats), torch.tensor(ints, dtype=torch.int32)
    kernel[(2,)](*given, out, sums, places, COLS=COLS, ROWS=ROWS)
    return out, sums, places


def plain(quick: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, Triton's own."""
    quick.undo()
    try:
        yield
    finally:
        quick_interpreter.install(quick)


def listed(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(values, min_size=ROWS * COLS, max_size=ROWS * COLS)


@settings(max_examples=6)
@given(floats=listed(st.floats(-1e3, 1e3, width=32)), ints=listed(st.integers(-(1 << 31), (1 << 31) - 1)))
def test_results_are_the_plain_one_s(quick: pytest.MonkeyPatch, floats: list[float], ints: list[int]) -> None:
    found = run(floats, ints)
    for _ in plain(quick):
        wanted = run(floats, ints)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("wrong", [of_no_power_of_two, of_unlike_shapes])
def test_what_is_no_program_is_refused_alike(quick: pytest.MonkeyPatch, wrong) -> None:
    def refusal() -> str:
        with pytest.raises(InterpreterError) as caught:
            wrong[(1,)](torch.zeros(4))
        return str(caught.value)

    said = refusal()
    for _ in plain(quick):
        assert refusal() == said


def test_these_tests_run_in_the_quick_one(quick: pytest.MonkeyPatch) -> None:
    """Watched, also behind a look at the plain one."""
    for _ in plain(quick):
        assert interpreter.interpreter_builder.options.sanitize_overflow
    assert not interpreter.interpreter_builder.options.sanitize_overflow
    test_interp_bounds.test_outside(test_interp_bounds.copy, (17, 16), {"SIZE": 32})
