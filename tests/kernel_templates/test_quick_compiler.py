"""The quick front end makes the code that Triton's own makes, numbers of lines too, and refuses what that refuses."""

import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import quick_compiler
import torch
import triton
import triton.language as tl
from triton.compiler import CompilationError

from kernel_templates.cuda.crosscompile import Compiled, cross_compile
from kernel_templates.cuda.launch import Launch


@triton.jit
def both(pair, scale: tl.constexpr = 3):
    """A tuple goes in and comes out; called with several types."""
    left, right = pair
    if scale > 2:
        left += scale
    return left * right, (right, scale)


@triton.jit
def largest(a, i, b, j):
    other = b > a
    return tl.where(other, b, a), tl.where(other, j, i)


@triton.jit
def kernel(
    floats, ints, out, sums, count, COLS: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    at = row * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros([ROWS], tl.float32)
    for step in range(count):
        x = tl.load(floats + at + step * COLS, mask=at % 3 != 0, other=2.0)
        n = tl.load(ints + at)
        product, (again, scale) = both((x, n.to(tl.float32)))
        shifted, _ = both((n, n >> 2), 1)
        best, place = tl.reduce((product, at), 1, largest)
        total += best * x.shape[1] + place.to(tl.float32) + scale * x.numel
        for part in tl.static_range(2):
            rooted = tl.sqrt(tl.abs(again)) + shifted
            tl.store(out + at * 2 + part, rooted if part else tl.exp2(x.to(tl.float32)).to(tl.bfloat16))
    tl.store(sums + tl.program_id(0) * ROWS + tl.arange(0, ROWS), total)


@triton.jit
def of_no_power_of_two(out, PDL: tl.constexpr, ASM: tl.constexpr):
    tl.store(out + tl.arange(0, 4), tl.zeros((3,), tl.float32))


@triton.jit
def of_unlike_shapes(out, PDL: tl.constexpr, ASM: tl.constexpr):
    tl.store(out + tl.arange(0, 2), tl.zeros((4,), tl.float32) + tl.zeros((2,), tl.float32))


@triton.jit
def of_unknown_names(out, PDL: tl.constexpr, ASM: tl.constexpr):
    tl.store(out, nothing)  # noqa: F821


def compiled(quick: bool, kernel, *arguments: object, **constants: int) -> Compiled:
    with pytest.MonkeyPatch.context() as patch:
        if quick:
            quick_compiler.install(patch)
        return cross_compile(Launch("test", kernel, (1,), arguments, constants), 90)


def test_code_is_the_plain_one_s() -> None:
    """Also when all that it keeps is there already, from other types and constants."""
    floats, ints = torch.empty(256), torch.empty(256, dtype=torch.int32)
    for cols in (32, 16):
        for given in ((floats, ints), (floats.half(), ints.short())):
            made = [compiled(quick, kernel, *given, floats, floats, 7, COLS=cols, ROWS=4) for quick in (False, True)]
            assert made[0] == made[1] and ".loc" in made[0].ptx


@pytest.mark.parametrize("wrong", [of_no_power_of_two, of_unlike_shapes, of_unknown_names])
def test_what_is_no_program_is_refused_alike(wrong) -> None:
    said = []
    for quick in (False, True, True):
        with pytest.raises(CompilationError) as caught:
            compiled(quick, wrong, torch.empty(4))
        said.append(str(caught.value))
    assert said[0] == said[1] == said[2]
