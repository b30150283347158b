"""Packed weights come back as the numbers that the format's own dequantize gives."""

import numpy as np
import pytest
import torch
from some_formats import any_bytes, few

from kernel_templates import formats, memory, random_inputs
from kernel_templates.cpu import expand, tiles
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.formats import FORMATS


@pytest.fixture(scope="module")
def team():
    with ThreadPool(2) as team:
        yield team


def width(name: str) -> int:
    """Columns in a few blocks."""
    return max(96, 2 * FORMATS[name].block)


def expanded(raw: torch.Tensor, cols: int, name: str, lanes: int, team: ThreadPool) -> torch.Tensor:
    """float32 [cols, padded rows]."""
    rows = len(raw)
    out = memory.empty((cols * tiles.padded(rows, lanes),), np.float32)
    out.view(np.uint8).fill(0xFF)  # NaN: a column left out cannot look right
    kernel = expand.compile(name, cols, lanes)
    packed = tiles.pack(raw, cols, name, lanes)
    Graph(team, [expand.bind(kernel, packed, out)]).replay()
    return torch.from_numpy(out).view(cols, -1)


@pytest.mark.parametrize(("rows", "lanes"), [(83, 32), (130, 64)])
@pytest.mark.parametrize("name", few())
def test_f32_is_exact(name, rows, lanes, team):
    cols = width(name)
    raw = random_inputs.weight(rows, cols, name, np.random.default_rng(rows)).raw
    got = expanded(raw, cols, name, lanes, team)
    assert torch.equal(got[:, :rows].T, formats.get(name).dequantize(raw))
    assert not got[:, rows:].any()


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if fmt.quantized])
def test_every_quant_value_at_every_place(name, team):
    """Bytes drawn at random reach all values of a quant, where quantized normal numbers rarely do."""
    fmt, rows, cols = formats.get(name), 256, 256
    raw = any_bytes(fmt, rows, cols)
    got = expanded(raw, cols, name, 64, team)
    assert torch.equal(got.T, fmt.dequantize(raw))
