"""A layer's mixture alone on the CPU, as the host of a GPU computes it, against the operation's float64 reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kernel_templates.moe import reference
from kernel_templates.operation import Inputs
from model import layer_plan, mixtures, weights
from model.config import ModelConfig
from model.cpu import weight_cache
from model.cpu.experts import MOST, Experts
from model.gguf_file import GGUFFile, open_gguf

LAYER = 1


def wanted(file: GGUFFile, config: ModelConfig, x: np.ndarray) -> np.ndarray:
    """What becomes of one row."""
    problem, step = mixtures.of_layers(config, file)[LAYER], mixtures.step(layer_plan.layer(config, LAYER))
    vectors = {name: weights.vector(file, tensor) for name, tensor in step.vectors.items()}
    buffers = {**step.link.bound(vectors), "x": x, "eps": np.array([config.norm_eps], np.float32)}
    return reference.outputs(problem, Inputs(weights.matrices(file, step.weights), buffers))["x"]


@pytest.mark.parametrize("shape", ["tiny-qwen3moe", "tiny-gpt-oss", "tiny-qwen35moe", "tiny-gemma4-mixture"])
def test_rows_are_the_reference_s(made: Callable[[str, str], Path], shape: str) -> None:
    file = open_gguf(made(shape, "Q4_0"))
    config = ModelConfig.from_gguf(file)
    rows = np.random.default_rng(0).standard_normal((5, config.hidden), np.float32)
    experts = Experts(file, config, None, 2, kept=False)
    try:
        experts.open(LAYER)
        expected = np.stack([wanted(file, config, row) for row in rows])
        alone = []
        for row in rows:
            experts.x[0] = row
            experts.run(LAYER)
            alone.append(experts.x[0].copy())
        experts.x[: len(rows)] = rows
        experts.x[len(rows)] = np.nan  # of a size of 8 rows, 5 are computed
        experts.run(LAYER, len(rows))
        together = experts.x[: len(rows)].copy()
        experts.together_from[experts.problems[LAYER]] = len(rows) + 1
        experts.x[: len(rows)] = rows
        experts.run(LAYER, len(rows))
        assert (experts.x[: len(rows)] == np.stack(alone)).all()
    finally:
        experts.close()
    scale = np.linalg.norm(expected - rows)
    for found in (np.stack(alone), together):
        print(shape, np.linalg.norm(found - expected) / scale)
        assert np.linalg.norm(found - expected) < 2e-3 * scale
    assert np.isnan(experts.x[len(rows)]).all() and len(experts.x) == MOST


def test_packed_experts_are_kept_on_disk(
    made: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weight_cache, "folder", lambda: tmp_path)
    monkeypatch.setenv("AUTOTUNE_WEIGHT_CACHE_GB", "1")
    file = open_gguf(made("tiny-qwen3moe", "Q4_0"))
    config, found = ModelConfig.from_gguf(file), []
    for kept in (True, True, False):
        experts = Experts(file, config, None, 1, kept)
        experts.open(LAYER)
        experts.x[0] = 1.0
        experts.run(LAYER)
        found.append(experts.x[0].copy())
        experts.close()
    assert len(list(tmp_path.rglob("*.packed"))) == 1
    assert all((each == found[0]).all() for each in found)
