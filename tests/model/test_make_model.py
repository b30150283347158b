"""Synthetic models: formats as ggml would choose them, realistic weights, reproducible, and a usable command line."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest
from architecture_samples import TINY
from click.testing import CliRunner

from kernel_templates.formats import FORMATS
from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.layer_plan import EMBEDDING, OUTPUT, plan
from model.tokenizer import Tokenizer

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"
Made = Callable[[str, str], Path]


def values(path: Path, name: str) -> np.ndarray:
    info = open_gguf(path).tensors[name]
    raw = open_gguf(path).raw(name)
    return gguf.dequantize(raw, gguf.GGMLQuantizationType[info.format_name])


@pytest.mark.parametrize("quant", list(FORMATS))
@pytest.mark.parametrize("shape", TINY)
def test_every_format_loads(made: Made, make_model: ModuleType, shape: str, quant: str) -> None:
    path = made(shape, quant)
    file = open_gguf(path)
    expected = make_model.SHAPES[shape].config
    config = ModelConfig.from_gguf(file)
    assert config.layers == expected.layers and config.layer(0).head_dim == expected.layer(0).head_dim
    assert shape != "tiny" or path.stat().st_size < 1 << 20
    tokenizer = Tokenizer.from_metadata(file.metadata)
    assert tokenizer.vocab_size == config.vocab == 512
    text = "The rest is <|im_end|> 42, naïve 文\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("<|im_start|><|im_end|><|endoftext|>", parse_special=True)) == 3
    for name, info in file.tensors.items():
        data = values(path, name)
        assert np.isfinite(data).all()
        if len(info.shape) == 1:
            assert info.format_name == "F32"
        elif "attn_q." in name:
            assert data.std() == pytest.approx(config.hidden**-0.5, rel=0.1)
            assert abs(data.mean()) < 0.1 * data.std()


def test_formats_are_ggml_s_choice(make_model: ModuleType) -> None:
    choose = make_model.tensor_format
    assert choose((9, 1024), "Q4_0", head=True) == "Q6_K"
    assert choose((9, 576), "Q4_1", head=True) == "Q8_0"  # as in the real SmolLM2 file
    assert choose((9, 4096), "Q4_0") == "Q4_0"
    assert choose((9, 4096), "Q8_0", head=True) == "Q8_0"
    assert choose((9, 576), "Q6_K") == "Q8_0"
    assert choose((576,), "Q4_0") == "F32"


@pytest.mark.parametrize("name", ["gemma3", "mistral", "phi3", "qwen2"])
def test_mixtures_are_the_quantizer_s(make_model: ModuleType, name: str) -> None:
    """Files that llama.cpp's own quantizer made, tensor by tensor."""
    file = open_gguf(MODELS / f"{name}.gguf")
    config = ModelConfig.from_gguf(file)
    weights, planned = make_model.Weights(config, np.random.default_rng(0)), plan(config)
    found = {t.name: t.format_name for t in file.tensors.values()}
    assert {
        t.name: make_model.tensor_format(t.shape, "Q4_K_M", t == planned.output, weights.place(t.name), config)
        for t in planned.tensors()
    } == found


def test_mixtures_of_experts_beside_networks_are_the_quantizer_s(make_model: ModuleType) -> None:
    """Which of Gemma 4's values get more bits depends on how many layers have any; the networks are asked for here."""
    file = open_gguf(MODELS / "gemma4-mixture.gguf")
    config = ModelConfig.from_gguf(file)
    weights = make_model.Weights(config, np.random.default_rng(0))
    networks = [t for t in plan(config).tensors() if "ffn" in t.name or "ffw" in t.name]
    assert len(networks) == 2 * 13
    for t in networks:
        found = make_model.tensor_format(t.shape, "Q4_K_M", place=weights.place(t.name), config=config)
        assert found == file.tensors[t.name].format_name, t.name


def test_which_layers_get_more_bits(make_model: ModuleType) -> None:
    """Of 32 layers: the first 4, the last 4 and every third between."""
    choose, config = make_model.tensor_format, make_model.SHAPES["llama3.1-8b"].config

    def layers(quant: str, what: str, wanted: str) -> list[int]:
        found = (choose((4096, 4096), quant, place=(what, i), config=config) for i in range(32))
        return [i for i, form in enumerate(found) if form == wanted]

    spread = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    for quant, rest in (("Q4_K_M", "Q4_K"), ("Q5_K_M", "Q5_K")):
        assert layers(quant, "v", "Q6_K") == layers(quant, "down", "Q6_K") == spread
        assert layers(quant, "up", rest) == layers(quant, "q", rest) == list(range(32))
    assert layers("IQ4_XS", "v", "Q5_K") == list(range(32)) and layers("IQ4_XS", "down", "Q5_K") == [0, 1, 2, 3]
    assert layers("Q6_K", "v", "Q6_K") == list(range(32)) and choose((9, 640), "Q4_K_M") == "Q5_0"


@pytest.mark.parametrize(("tied", "formats"), [(True, ("Q6_K", None)), (False, ("Q4_0", "Q6_K"))])
def test_the_matrix_that_gives_logits_keeps_more_bits(
    make_model: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, formats: tuple
) -> None:
    shape = make_model.SHAPES["tiny-qwen3"]
    monkeypatch.setitem(make_model.SHAPES, "ends", replace(shape, config=replace(shape.config, tied=tied)))
    make_model.make_model("ends", "Q4_0", tmp_path / "m.gguf")
    tensors = open_gguf(tmp_path / "m.gguf").tensors
    found = [tensors[name].format_name if name in tensors else None for name in (EMBEDDING, OUTPUT)]
    assert tuple(found) == formats


def test_sizes_are_the_real_ones(make_model: ModuleType) -> None:
    sizes = {
        name: sum(int(np.prod(tensor.shape)) for tensor in plan(shape.config).tensors()) / 1e6
        for name, shape in make_model.SHAPES.items()
    }
    real = {"gemma3-1b": 999.9, "gemma3-4b": 3880.1, "qwen2.5-7b": 7615.6, "llama3.1-8b": 8030.3, "mistral-7b": 7248.0}
    real |= {
        "phi3-mini": 3821.1,
        "qwen3-0.6b": 596.0,
        "qwen3-1.7b": 1720.6,
        "qwen3-4b": 4022.5,
        "qwen3-8b": 8190.7,
        "smollm2-135m": 134.5,
    }
    assert {name: round(sizes[name], 1) for name in real} == real


def test_k_norms_reach_the_real_peak(tiny_qwen3: Path) -> None:
    peaks = [values(tiny_qwen3, f"blk.{layer}.attn_k_norm.weight").max() for layer in range(2)]
    assert peaks[0] == 96.5 and peaks[1] < 96.5


def test_same_seed_same_bytes(make_model: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_model.make_model("tiny", "Q4_1", tmp_path / name, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_command_line(tmp_path: Path, make_model: ModuleType) -> None:
    command = [sys.executable, make_model.__file__, "tiny", "q8_0", str(tmp_path / "m.gguf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "0.1 MB" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    for arguments in (("huge", "Q4_0", "x"), ("tiny", "Q7_0", "x"), ("tiny", "Q4_0", str(tmp_path / "no" / "x"))):
        failed = CliRunner().invoke(make_model.main, arguments)
        assert failed.exit_code == 2 and "Error: " in failed.output
