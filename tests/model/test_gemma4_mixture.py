"""Gemma 4's mixtures: what their files say, what is refused, and what each of their vectors changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forged_metadata import assert_refused, changed

from model import weights
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.layer_plan import plan
from model.layer_sizes import Mixture
from model.reference import reference_logits

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "models"
TOKENS = np.random.default_rng(3).integers(3, 512, 24).tolist()
VECTORS = (
    "ffn_norm.weight", "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight",
    "post_ffw_norm.weight", "ffn_gate_inp.scale", "ffn_down_exps.scale",
)  # fmt: skip


@pytest.fixture
def file() -> GGUFFile:
    return open_gguf(FOLDER / "gemma4-mixture-small.gguf")


def test_what_a_file_says(file: GGUFFile) -> None:
    """Layers that share keys and values have wider networks; experts are alike in all."""
    config = ModelConfig.from_gguf(file)
    mixture = Mixture(8, 3, "softmax", normalized=True, shared_ffn=128, beside=True)
    wider = replace(mixture, shared_ffn=256)
    assert [sizes.mixture for sizes in config.sizes] == [mixture, mixture, wider, wider]
    assert {sizes.ffn for sizes in config.sizes} == {32} and config.most_experts_used == 3
    unread = {name for name in file.tensors if name.startswith(("blk.2.attn_k", "blk.2.attn_v"))}
    assert not {tensor.name for tensor in plan(config).tensors()} & unread
    assert ModelConfig.from_gguf(open_gguf(FOLDER / "gemma4.gguf")).layer(0).mixture is None


def test_gate_and_up_are_rows_of_each_expert_s_matrix(file: GGUFFile) -> None:
    layer = plan(ModelConfig.from_gguf(file)).layers[1]
    whole = file.raw("blk.1.ffn_gate_up_exps.weight").reshape(8, 2, 32, -1)
    for half, name in enumerate(("gate", "up")):
        found = weights.matrix(file, layer.matrices[name]).raw.numpy()
        np.testing.assert_array_equal(found.reshape(8, 32, -1), whole[:, half])


def test_the_router_s_norm_is_divided_by_the_root_of_its_size(file: GGUFFile) -> None:
    layer = plan(ModelConfig.from_gguf(file)).layers[0]
    stored = file.raw("blk.0.ffn_gate_inp.scale").view(np.float32).reshape(-1)
    np.testing.assert_allclose(weights.vector(file, layer.vectors["router_norm"])[:64], stored / 8, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"expert_count": None}, "is not part of"),
        ({"expert_count": 0}, "is not part of"),
        ({"expert_count": -1}, "gemma4.expert_count"),
        ({"expert_count": "8"}, "gemma4.expert_count"),
        ({"expert_count": 1 << 40}, "gemma4.expert_count"),
        ({"expert_count": 9}, "ffn_gate_inp.weight"),
        ({"expert_used_count": None}, "gemma4.expert_used_count"),
        ({"expert_used_count": 0}, "gemma4.expert_used_count"),
        ({"expert_used_count": 9}, "gemma4.expert_used_count"),
        ({"expert_feed_forward_length": None}, "gemma4.expert_feed_forward_length"),
        ({"expert_feed_forward_length": 0}, "gemma4.expert_feed_forward_length"),
        ({"expert_feed_forward_length": 40}, "gemma4.expert_feed_forward_length' is 40"),
        ({"expert_feed_forward_length": 64}, "ffn_gate_up_exps.weight"),
        ({"expert_feed_forward_length": 1 << 40}, "gemma4.expert_feed_forward_length"),
        ({"feed_forward_length": 96}, "blk.0.ffn_gate.weight"),
        ({"feed_forward_length": 40}, "gemma4.feed_forward_length' is 40"),
        ({"feed_forward_length": None}, "gemma4.feed_forward_length"),
        ({"feed_forward_length": np.array([128, 256], np.int32)}, "gemma4.feed_forward_length"),
        ({"expert_gating_func": 2}, "gemma4.expert_gating_func"),
        ({"expert_shared_count": 1}, "gemma4.expert_shared_count"),
    ],
)
def test_metadata_that_does_not_fit(file: GGUFFile, keys: dict[str, Any], named: str) -> None:
    assert_refused(changed(file, **keys), named)


@pytest.mark.parametrize("name", [*VECTORS, "ffn_gate_up_exps.weight", "ffn_down_exps.weight", "ffn_up.weight"])
def test_tensors_that_are_missing_or_of_another_shape(file: GGUFFile, name: str) -> None:
    name = f"blk.1.{name}"
    without = {other: info for other, info in file.tensors.items() if other != name}
    with pytest.raises(ModelError, match=f"'{name}' of shape .* is missing"):
        ModelConfig.from_gguf(replace(file, tensors=without))
    info = file.tensors[name]
    for shape in ((*info.shape[:-1], info.shape[-1] + 32), (info.shape[0] + 1, *info.shape[1:]), (1, *info.shape)):
        with pytest.raises(ModelError, match=f"'{name}' has shape"):
            ModelConfig.from_gguf(replace(file, tensors=file.tensors | {name: replace(info, shape=shape)}))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_not_quantized(file: GGUFFile, name: str) -> None:
    name = f"blk.0.{name}"
    tensors = file.tensors | {name: replace(file.tensors[name], format_name="Q8_0")}
    with pytest.raises(ModelError, match=f"'{name}' is stored as Q8_0"):
        ModelConfig.from_gguf(replace(file, tensors=tensors))


@pytest.mark.parametrize("vector", VECTORS)
def test_every_vector_is_seen(file: GGUFFile, vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the judge, whom the engine is held to, would not notice left out could be wrong in both."""
    wanted, raw = reference_logits(file, TOKENS), GGUFFile.raw

    def with_ones(self: GGUFFile, name: str) -> np.ndarray:
        found = raw(self, name)
        return np.ones_like(found.view("<f4")).view(np.uint8) if name.endswith(vector) else found

    monkeypatch.setattr(GGUFFile, "raw", with_ones)
    assert not torch.allclose(reference_logits(file, TOKENS), wanted, atol=1e-2)
