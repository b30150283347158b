"""Every architecture against Hugging Face transformers, on small files that llama.cpp's converter and quantizer wrote.

tests/fixtures/models holds the files, transformers' float32 logits of 256 tokens over the very weights of each, and how
far llama.cpp is from those on the same file (scripts/record_models). Ours must be no farther.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.architectures import ARCHITECTURES
from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.reference import reference_logits

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "models"
DOCUMENT = json.loads((FOLDER / "models.json").read_text())
MODELS: dict[str, Any] = DOCUMENT["models"]


def compared(name: str, logits: np.ndarray) -> tuple[float, float]:
    """Mean KL in nats of `logits` [tokens, vocab] to transformers' likeliest tokens, all others as one; the share of
    equal best tokens."""
    kept = np.load(FOLDER / f"{name}.npz")
    ids, p = kept["ids"].astype(np.int64), kept["logprobs"].astype(np.float64)
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
