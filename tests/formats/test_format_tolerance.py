"""A format's tolerance lets an honest kernel pass and stops a wrong one."""

import pytest
import torch

from kernel_templates.formats import FORMATS, Format

ROWS, COLS = 64, 4096
LOWER = {name: fmt.layout.dtype for name, fmt in FORMATS.items() if not fmt.quantized and fmt.block_bytes == 2}


def integer_blocks(x: torch.Tensor, activation: str) -> torch.Tensor:
    """What is left of activations after blocks of 32 integers; int8's scales are kept in float16."""
    blocks = x.view(-1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / {"int8": 127, "int16": 127 * 128}[activation]
    scale = scale.half().float() if activation == "int8" else scale
    return (torch.round(blocks / scale) * scale).view(-1)


def tf32(x: torch.Tensor) -> torch.Tensor:
    """Rounded to TF32's 10 bits of mantissa."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def kernel_input(fmt: Format, x: torch.Tensor, activation: str) -> torch.Tensor:
    if fmt.quantized:
        return integer_blocks(x, activation)
    return x.to(LOWER.get(fmt.name, torch.float32)).float()


def error(out: torch.Tensor, ref: torch.Tensor) -> float:
    return float((out - ref).norm() / ref.norm())


@pytest.fixture(params=["int8", "int16"])
def activation(request):
    return request.param


@pytest.fixture
def problem(fmt):
    """Weights as stored [64, 4096], activations [4096], the float64 product [64]."""
    chance = torch.Generator().manual_seed(3)
    w = fmt.dequantize(fmt.quantize(torch.randn(ROWS, COLS, generator=chance)))
    x = torch.randn(COLS, generator=chance)
    return w, x, w.double() @ x.double()


def test_an_honest_kernel_passes_with_room(fmt, activation, problem):
    w, x, ref = problem
    x = kernel_input(fmt, x, activation)
    out = torch.zeros(ROWS)
    for column in range(COLS):  # the worst order: one float32 sum a row
        out += w[:, column] * x[column]
    assert error(out, ref) < 0.7 * fmt.tolerances[activation]


def test_an_honest_kernel_passes_on_outliers(fmt, activation, problem):
    w, x, _ = problem
    x = x.clone()
    x[5::32] *= 20
    assert error(w @ kernel_input(fmt, x, activation), w.double() @ x.double()) < fmt.tolerances[activation]


def test_a_lost_block_fails(fmt, activation, problem):
    w, x, ref = problem
    w = w.clone()
    w[:, 64:96] = 0
    assert error(w @ kernel_input(fmt, x, activation), ref) > 2 * fmt.tolerances[activation]


def test_a_lost_column_fails(fmt, activation, problem):
    w, x, ref = problem
    w = w.clone()
    w[:, int((x - 1.5).abs().argmin())] = 0
    assert error(w @ kernel_input(fmt, x, activation), ref) > fmt.tolerances[activation]


def test_int16_without_its_low_plane_fails(fmt, problem):
    if fmt.block > 1:
        w, x, ref = problem
        assert error(w @ integer_blocks(x, "int8"), ref) > 10 * fmt.tolerances["int16"]


def test_tf32_is_not_float32():
    chance = torch.Generator().manual_seed(4)
    w, x = torch.randn(ROWS, COLS, generator=chance), torch.randn(COLS, generator=chance)
    assert error(tf32(w) @ tf32(x), w.double() @ x.double()) > 2 * FORMATS["F32"].tolerances["int16"]


@pytest.mark.parametrize("name", LOWER)
def test_a_sum_in_half_precision_fails(name):
    fmt, chance = FORMATS[name], torch.Generator().manual_seed(5)
    w, x = torch.randn(ROWS, COLS, generator=chance), torch.randn(COLS, generator=chance)
    w = fmt.dequantize(fmt.quantize(w))
    out = torch.zeros(ROWS, dtype=LOWER[name])
    for column in range(COLS):
        out += (w[:, column] * x[column]).to(LOWER[name])
    assert error(out.double(), w.double() @ x.double()) > fmt.tolerances["int16"]
