"""Kernels that leave their tensors fail here, as they would on a GPU."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterError

from kernel_templates.cuda.launch import INTERPRETED, Launch


@triton.jit
def copy(x, y, read, written, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y + i, tl.load(x + i, mask=i < read, other=0.0), mask=i < written)


@triton.jit
def count(x, y, at, PDL: tl.constexpr, ASM: tl.constexpr):
    tl.atomic_add(y + at, tl.load(x))


def launched(kernel, *numbers: int, **constants: int) -> torch.Tensor:
    """The second tensor, the middle of a larger one as the first is, after a launch."""
    x, y = torch.arange(48.0)[16:32], torch.zeros(48)
    Launch("test", kernel, (1,), (x, y[16:32], *numbers), constants).run(INTERPRETED)
    return y


def test_inside() -> None:
    assert launched(copy, 16, 16, SIZE=32)[16:32].tolist() == list(range(16, 32))
    assert launched(count, 15)[31] == 16


@pytest.mark.parametrize(
    ("kernel", "numbers", "constants"),
    [(copy, (17, 16), {"SIZE": 32}), (copy, (16, 17), {"SIZE": 32}), (count, (16,), {}), (count, (-1,), {})],
)
def test_outside(kernel, numbers, constants) -> None:
    with pytest.raises(InterpreterError, match="in no tensor"):
        launched(kernel, *numbers, **constants)
