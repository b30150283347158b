"""Every architecture against Hugging Face transformers, on small files that llama.cpp's converter and quantizer wrote.

tests/fixtures/models holds the files, transformers' float32 logits of 256 or 512 tokens over the very weights of each,
and how far llama.cpp is from those on the same file (scripts/record_models). Ours must be no farther.
"""

import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import layer_plan, weights
from model.architectures import ARCHITECTURES
from model.config import ModelConfig
from model.cpu.runner import open_runner
from model.gguf_file import GGUFFile, open_gguf
from model.reference import reference_logits
from model.runner import Settings

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "models"
DOCUMENT = json.loads((FOLDER / "models.json").read_text())
MODELS: dict[str, Any] = DOCUMENT["models"]


def compared(name: str, logits: np.ndarray, part: str = "") -> tuple[float, float]:
    """Mean KL in nats of `logits` [tokens, vocab] to transformers' likeliest tokens, all others as one; the share of
    equal best tokens."""
    kept = np.load(FOLDER / f"{name}.npz")
    ids, p = kept[part + "ids"].astype(np.int64), kept[part + "logprobs"].astype(np.float64)
    found = logits.astype(np.float64) - logits.max(1, keepdims=True)
    found -= np.log(np.exp(found).sum(1, keepdims=True))
    q = np.take_along_axis(found, ids, 1)
    rest_p, rest_q = (np.maximum(1 - np.exp(part).sum(1), 1e-12) for part in (p, q))
    kl = (np.exp(p) * (p - q)).sum(1) + rest_p * np.log(rest_p / rest_q)
    return float(kl.mean()), float((found.argmax(1) == ids[:, 0]).mean())


def tokens(name: str) -> list[int]:
    return np.load(FOLDER / f"{name}.npz")["tokens"].tolist()


def test_every_architecture_has_a_file() -> None:
    found = {ModelConfig.from_gguf(open_gguf(path)).architecture.name for path in FOLDER.glob("*.gguf")}
    assert found == set(ARCHITECTURES) and {path.stem for path in FOLDER.glob("*.gguf")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_judge_is_transformers(name: str) -> None:
    kl, top1 = compared(name, reference_logits(FOLDER / f"{name}.gguf", tokens(name)).numpy())
    print(f"{name}: KL {kl:.1e}, top-1 {top1:.2%}")
    assert abs(kl) < 1e-9 and top1 > 0.995


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_is_no_farther_than_llama_cpp(name: str) -> None:
    """Decode steps: activations in 16 bits and a cache in float16 stand against llama.cpp's 8 bits. Prompts: the same
    cache and products in float32."""
    theirs = MODELS[name]["llama_cpp"]
    for path, (kl, top1) in zip(("decode", "prompt"), both_paths(name), strict=True):
        print(f"{name}, {path}: KL {kl:.1e}, top-1 {top1:.2%}; llama.cpp {theirs['mean_kl']:.1e}, {theirs['top1']:.2%}")
        assert kl < min(theirs["mean_kl"], 3e-6) and top1 >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if "llama_cpp_late" in model])
def test_after_thousands_of_tokens(name: str) -> None:
    """States and caches that thousands of tokens went into: decode steps, and a prompt in many passes.

    Of thousands of tokens some have two experts whose logits differ by no more than rounding (gpt-oss's file: 1e-5 at
    one, eight below 3e-4): another one's keys and values are what later tokens see then."""
    kept, theirs = np.load(FOLDER / f"{name}.npz"), MODELS[name]["llama_cpp_late"]
    file, read, last = open_gguf(FOLDER / f"{name}.gguf"), kept["late_tokens"].tolist(), len(kept["late_ids"])
    config = ModelConfig.from_gguf(file)
    bound = 1e-4 if config.layer(0).mixture else 3e-6
    with closing(open_runner(file, config, Settings(len(read), threads=1))) as runner:
        for path in ("decode", "prompt"):
            rows = itertools.islice(runner.logit_rows(read, path == "decode"), len(read) - last, None)
            kl, top1 = compared(name, np.stack([row.copy() for row in rows]), "late_")
            print(f"{name}, {path}: KL {kl:.1e}, top-1 {top1:.2%}; llama.cpp {theirs['mean_kl']:.1e}")
            assert kl < min(theirs["mean_kl"], bound) and top1 >= 0.98


def both_paths(name: str) -> list[tuple[float, float]]:
    """`compared` of decode steps and of a prompt, on the processor."""
    file = open_gguf(FOLDER / f"{name}.gguf")
    runner = open_runner(file, ModelConfig.from_gguf(file), Settings(len(tokens(name)), threads=1))
    with closing(runner):
        return [compared(name, runner.logits(tokens(name), stepwise)) for stepwise in (True, False)]


def test_short_contexts_take_the_short_factors() -> None:
    """Phi-3's two vectors: a context of no more than the model was first trained for takes the second."""
    file, prompt = open_gguf(FOLDER / "phi3.gguf"), tokens("phi3")[:40]
    config = ModelConfig.from_gguf(file)
    assert config.rope_scaling is not None and config.rope_scaling.original == 128
    logits = {context: reference_logits(file, prompt, context).numpy() for context in (128, 129)}
    assert np.abs(logits[128] - logits[129]).max() > 0.1
    for context, wanted in logits.items():
        with closing(open_runner(file, config, Settings(context, threads=1))) as runner:
            assert np.abs(runner.logits(prompt, stepwise=True) - wanted).max() < 5e-3


def test_fused_tensors_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q, K and V of Phi-3 are rows of one tensor: each is read alone, in the file's own bytes."""
    file, read = open_gguf(FOLDER / "phi3.gguf"), []
    config = ModelConfig.from_gguf(file)
    matrices = layer_plan.layer(config, 1).matrices
    copied = GGUFFile.copied
    monkeypatch.setattr(
        GGUFFile, "copied", lambda self, name, rows=slice(None): read.append(rows) or copied(self, name, rows)
    )
    parts = weights.matrices(file, {name: matrices[name] for name in ("q", "k", "v", "gate", "up")})
    assert read == [slice(0, 256), slice(256, 384), slice(384, 512), slice(0, 256), slice(256, 512)]
    for whole, names in (("attn_qkv", "qkv"), ("ffn_up", ("gate", "up"))):
        joined = np.concatenate([parts[name].raw.numpy() for name in names])
        np.testing.assert_array_equal(joined, file.raw(f"blk.1.{whole}.weight"))
