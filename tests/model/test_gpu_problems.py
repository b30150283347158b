"""Which problems a model has on a GPU: contexts in buckets, whole layers, and what each problem counts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernel_templates.attention.problem import Attention
from model import engine
from model.config import ModelConfig
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.problems import contexts, gpu_layers, gpu_problems, layer_at, model_problems


def test_contexts_cover_the_capacity() -> None:
    assert contexts(1) == contexts(160) == [160]
    assert contexts(161) == [160, 640]
    assert contexts(40960) == [160, 640, 2560, 5120, 10240, 20480, 40960]


def test_every_layer_counts_once_a_token(made: Callable[[str, str], Path]) -> None:
    file = open_gguf(made("tiny-qwen3", "Q4_0"))
    config = ModelConfig.from_gguf(file)
    counts = gpu_problems(config, file, 600)
    attention = [p for p in counts if isinstance(p, Attention)]
    assert [p.context for p in attention] == [160, 640]
    assert [counts[p] for p in attention] == [config.layers, config.layers]
    others = {p: n for p, n in counts.items() if p not in attention}
    assert others == {p: n for p, n in model_problems(config, file).items() if not isinstance(p, Attention)}


def test_layers_are_distinct_and_the_first_context_comes_first(made: Callable[[str, str], Path]) -> None:
    file = open_gguf(made("tiny-qwen3", "Q6_K"))
    config = ModelConfig.from_gguf(file)
    layers = gpu_layers(config, file, 600)
    assert [p.context for p in layers] == [160, 640]  # both layers of this file are alike
    assert layers[0] == layer_at(config, file, 0, 160) == layer_at(config, file, 1, 160)
    assert layers[0].k_format == "Q6_K" and layers[0].qk_norm == 1


def test_contexts_with_a_full_window_are_one(made: Callable[[str, str], Path]) -> None:
    """Its kernels read the same then: a layer with a window of 8 is tuned once, whatever the capacity."""
    file = open_gguf(made("tiny-gemma2", "Q4_0"))
    config = ModelConfig.from_gguf(file)
    local, everywhere = (layer_at(config, file, i, 10240) for i in range(2))
    assert (local.window, local.context) == (8, 160) and (everywhere.window, everywhere.context) == (0, 10240)
    assert [p.context for p in gpu_layers(config, file, 5000) if p.window] == [160]
    assert Attention(4, 2, 32, 640, window=512).typical.context == 512, "timed where the window is full"
    assert Attention(4, 2, 32, 640, window=4096).typical == Attention(4, 2, 32, 400, window=4096)


def test_device_names() -> None:
    assert engine.parse_device("cpu") == ("cpu", 0)
    assert engine.parse_device("cuda") == ("cuda", 0)
    assert engine.parse_device("cuda:3") == ("cuda", 3)
    for wrong in ("", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:1:2", "x" * 999):
        with pytest.raises(ModelError, match=r"use cpu, cuda or cuda:N$") as caught:
            engine.parse_device(wrong)
        assert len(str(caught.value)) < 200


def test_no_gpu_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kernel_templates.cuda import machine

    def none(index: int) -> None:
        raise machine.DeviceError(f"there is no cuda:{index}; use --device cpu")

    monkeypatch.setattr(machine, "detect", none)
    with pytest.raises(ModelError, match="there is no cuda:2; use --device cpu"):
        engine.load(tiny_model, "cuda:2")


def test_memory_that_runs_out_is_one_line() -> None:
    expected = pytest.raises(ModelError, match="does not hold a KV cache of 9 positions; give a smaller --context")
    with expected, explain_out_of_memory("a KV cache of 9 positions", FOR_CONTEXT):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate ...")
