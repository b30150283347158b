"""Every key that is read, with values of every kind that a file can store: right, or one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.tokenizer import Tokenizer

SIZES = (
    "vocab_size", "expert_count", "attention.sliding_window", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor", "block_count", "embedding_length", "feed_forward_length", "context_length",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
)  # fmt: skip
TOKENS = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "eot_token_id",
          "eom_token_id", "add_bos_token")  # fmt: skip
KEYS = (
    "general.architecture", "tokenizer.chat_template",
    *(f"llama.{key}" for key in SIZES), *(f"tokenizer.ggml.{key}" for key in TOKENS),
)  # fmt: skip
VALUES: dict[str, Any] = {
    "array": np.array([2, 3], np.int32),
    "empty array": np.array([], np.float32),
    "flags": np.array([True, False]),
    "strings": ["a", "b"],
    "no strings": [],
    "string": "x\n" * 1000,
    "empty string": "",
    "float": 2.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative": -3,
    "huge": 2**64 - 1,
    "zero": 0,
    "flag": True,
}


def read(file: GGUFFile) -> None:
    ModelConfig.from_gguf(file)
    Tokenizer.from_metadata(file.metadata)
    ChatTemplate.from_metadata(file.metadata)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("key", KEYS)
def test_any_value_is_read_or_refused(tiny_model: Path, key: str, value: Any) -> None:
    file = open_gguf(tiny_model)
    try:
        read(replace(file, metadata=dict(file.metadata) | {key: value}))
    except ModelError as error:
        assert str(error).isprintable() and len(str(error)) < 400


LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
OF_LAYERS = ("llama.feed_forward_length", "llama.attention.head_count_kv")
"""A number, or one for each layer."""


@pytest.mark.parametrize("key", OF_LAYERS)
@pytest.mark.parametrize("array", [np.array([32]), np.full(3, 32), np.array([1.0, 2.0]), VALUES["strings"]])
def test_not_one_number_for_each_layer(tiny_model: Path, key: str, array: Any) -> None:
    file = open_gguf(tiny_model)
    with pytest.raises(ModelError, match=rf"{key}.*(for each of 2 layers|array of)"):
        read(replace(file, metadata=dict(file.metadata) | {key: array}))


@pytest.mark.parametrize("key", [key for key in KEYS if key not in LISTS + OF_LAYERS])
def test_an_array_where_a_scalar_belongs_is_named(tiny_model: Path, key: str) -> None:
    file = open_gguf(tiny_model)
    for array in (VALUES["array"], VALUES["strings"]):
        if key == "tokenizer.ggml.token_type" and array is VALUES["array"]:
            continue
        with pytest.raises(ModelError, match=r"array of 2|for each of|not supported"):
            read(replace(file, metadata=dict(file.metadata) | {key: array}))
