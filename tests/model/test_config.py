"""Configurations of honest files, and every way metadata and tensors can disagree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.architectures import ARCHITECTURES
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile, TensorInfo, open_gguf
from model.layer_plan import plan


@pytest.fixture
def tiny(tiny_model: Path) -> GGUFFile:
    return open_gguf(tiny_model)


def test_real_model(real_model: Path) -> None:
    config = ModelConfig.from_gguf(open_gguf(real_model))
    assert config == ModelConfig(
        architecture=ARCHITECTURES["llama"],
        layers=30,
        hidden=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn=1536,
        vocab=49152,
        context=8192,
        norm_eps=pytest.approx(1e-5),
        rope_base=100000.0,
        rope_dim=64,
        tied=True,
        rope_freqs=False,
    )


def test_qwen3(tiny_qwen3: Path) -> None:
    file = open_gguf(tiny_qwen3)
    config = ModelConfig.from_gguf(file)
    assert config.architecture is ARCHITECTURES["qwen3"] and config.tied
    assert (config.heads * config.head_dim, config.hidden) == (128, 256)
    assert [tensor.name for tensor in plan(config).tensors()] == list(file.tensors)


def changed(file: GGUFFile, **keys: Any) -> GGUFFile:
    """The file with llama.* metadata keys changed; "__" stands for a dot, None removes the key."""
    metadata = dict(file.metadata) | {"llama." + key.replace("__", "."): value for key, value in keys.items()}
    return replace(file, metadata={key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"block_count": None}, "llama.block_count"),
        ({"block_count": 0}, "llama.block_count"),
        ({"block_count": 1000}, "1000 layers"),
        ({"block_count": 1}, "blk.1."),
        ({"block_count": "2"}, "llama.block_count"),
        ({"block_count": True}, "llama.block_count"),
        ({"embedding_length": 96}, "token_embd.weight"),
        ({"embedding_length": 1 << 31}, "embedding_length"),
        ({"feed_forward_length": 160}, "ffn_gate"),
        ({"feed_forward_length": 130}, "multiple of 32"),
        ({"attention__head_count": 2}, "attn_k.weight"),
        ({"attention__head_count": 3, "attention__head_count_kv": 2}, "evenly"),
        ({"attention__head_count_kv": np.array([2, 2])}, "head_count_kv"),
        ({"attention__head_count_kv": 9}, "head_count_kv"),
        ({"attention__key_length": 15, "attention__value_length": 15, "rope__dimension_count": None}, "even"),
        ({"attention__key_length": 32}, "different head sizes"),
        ({"attention__value_length": 99999}, "value_length"),
        ({"attention__layer_norm_rms_epsilon": None}, "epsilon"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "epsilon"),
        ({"rope__freq_base": -1.0}, "freq_base"),
        ({"rope__freq_base": float("inf")}, "freq_base"),
        ({"rope__dimension_count": 64}, "dimension_count"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}, "'yarn'"),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 2.0}, "'linear'"),
        ({"rope__scale_linear": 2.0}, "'linear'"),
        ({"expert_count": 8}, "experts"),
        ({"attention__sliding_window": 4096}, "sliding"),
        ({"vocab_size": 7}, "vocabulary sizes"),
        ({"context_length": 0}, "context_length"),
    ],
)
def test_metadata_that_does_not_fit(tiny: GGUFFile, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelConfig.from_gguf(changed(tiny, **keys))
    assert named in str(caught.value) and str(caught.value).isprintable()


def test_harmless_rope_scaling(tiny: GGUFFile) -> None:
    plain = ModelConfig.from_gguf(tiny)
    assert ModelConfig.from_gguf(changed(tiny, rope__scaling__type="none", rope__scaling__factor=4.0)) == plain
    assert ModelConfig.from_gguf(changed(tiny, rope__scaling__type="linear", rope__scaling__factor=1.0)) == plain


@pytest.mark.parametrize("architecture", ["mamba", None, 3, "llama\n", ["llama"], "base"])
def test_other_architectures_are_named(tiny: GGUFFile, architecture: object) -> None:
    file = replace(tiny, metadata=dict(tiny.metadata) | {"general.architecture": architecture})
    with pytest.raises(ModelError, match=r"architecture .* is not supported") as caught:
        ModelConfig.from_gguf(file)
    assert str(caught.value).isprintable()


def test_every_missing_or_misshapen_tensor_is_named(tiny: GGUFFile) -> None:
    for name, info in tiny.tensors.items():
        rest = {other: i for other, i in tiny.tensors.items() if other != name}
        with pytest.raises(ModelError):
            ModelConfig.from_gguf(replace(tiny, tensors=rest))
        wrong = {**tiny.tensors, name: replace(info, shape=(*info.shape[:-1], info.shape[-1] + 32))}
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            ModelConfig.from_gguf(replace(tiny, tensors=wrong))


def test_tensors_the_engine_would_ignore(tiny: GGUFFile) -> None:
    bias = TensorInfo("blk.0.attn_q.bias", (64,), "F32", 0, 256)
    with pytest.raises(ModelError, match=r"attn_q\.bias"):
        ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, bias.name: bias}))
    norm = replace(tiny.tensors["output_norm.weight"], format_name="Q8_0")
    with pytest.raises(ModelError, match="Q8_0"):
        ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, norm.name: norm}))


def test_untied_head_and_rope_factors(tiny: GGUFFile) -> None:
    head = replace(tiny.tensors["token_embd.weight"], name="output.weight")
    factors = TensorInfo("rope_freqs.weight", (8,), "F32", 0, 32)
    config = ModelConfig.from_gguf(replace(tiny, tensors={**tiny.tensors, head.name: head, factors.name: factors}))
    assert not config.tied and config.rope_freqs
