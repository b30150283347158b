"""Weights come out of packed tiles as the format's own dequantize gives them, by every algorithm of a product."""

import numpy as np
import pytest
import torch
from kernel_harness import Built
from some_formats import any_bytes, few

from kernel_templates import memory, registry
from kernel_templates.cpu import machine, tiles
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.formats import FORMATS
from kernel_templates.matmul import cpu as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.operation import Inputs, Weight
from kernel_templates.space import Config

ROWS, COLS = 83, 256


@pytest.fixture(scope="module")
def team():
    with ThreadPool(2) as team:
        yield team


def weights_through(algorithm: str, name: str, raw: torch.Tensor, team: ThreadPool) -> torch.Tensor:
    """The matrix times the identity: float32 [rows, cols]."""
    problem = Matmul(ROWS, COLS, name, COLS)
    config = Config({**registry.cpu_space(problem, machine.features()).default, "algorithm": algorithm})
    buffers = {"x": np.eye(COLS, dtype=np.float32).ravel(), "y": np.empty(COLS * ROWS, np.float32)}
    made = Built(problem, config).run(Inputs({"w": Weight(raw, COLS, name)}, buffers), team)
    return torch.from_numpy(made["y"]).view(COLS, ROWS).T


@pytest.mark.parametrize("lanes", [16, 64])
@pytest.mark.parametrize("algorithm", ["integer", "float"])
def test_panels_of_several_tiles_and_of_a_part_of_one(algorithm, lanes, team):
    """A panel has 32 rows here, the last one 19: of a tile of 16 and 3 rows of the next, or a part of a large one."""
    name, features = "Q4_K", machine.features()
    raw = any_bytes(FORMATS[name], ROWS, COLS)
    problem = Matmul(ROWS, COLS, name, COLS)
    config = Config({**registry.cpu_space(problem, features).default, "algorithm": algorithm, "width": 32})
    y = np.full(COLS * ROWS, np.nan, np.float32)
    scratch = memory.empty((2 * matmul.scratch_bytes(problem, config, lanes),), np.uint8)
    scratch.fill(0xFF)  # NaN in every float that is not written
    step = matmul.bind(
        problem, config, matmul.compile(problem, config, features, lanes), (tiles.pack(raw, COLS, name, lanes),),
        {"x": np.eye(COLS, dtype=np.float32).ravel(), "y": y, "scratch": scratch},
    )  # fmt: skip
    Graph(team, [step]).replay()
    wanted = FORMATS[name].dequantize(raw)
    off = (torch.from_numpy(y).view(COLS, ROWS).T - wanted).abs()
    assert (off <= 1e-5 * wanted.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("name", few())
def test_floats_are_exact(name, team):
    raw = any_bytes(FORMATS[name], ROWS, COLS)
    assert torch.equal(weights_through("float", name, raw, team), FORMATS[name].dequantize(raw))


@pytest.mark.parametrize("algorithm", ["integer", "columns"])
@pytest.mark.parametrize("name", few([name for name, fmt in FORMATS.items() if fmt.quantized]))
def test_every_quant_value_at_every_place(name, algorithm, team):
    """Bytes drawn at random reach all values of a quant, where quantized normal numbers rarely do. A weight may be a
    small difference of a block's numbers, which are rounded to float32 each."""
    raw = any_bytes(FORMATS[name], ROWS, COLS)
    wanted = FORMATS[name].dequantize(raw)
    off = (weights_through(algorithm, name, raw, team) - wanted).abs()
    assert (off <= 1e-5 * wanted.abs().amax(1, keepdim=True)).all()
