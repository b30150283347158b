"""What a mixture's other choice of experts does to a text, and that texts for tests have none that hang on rounding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from near_ties import settled

from model import reference

TOKENS = np.random.default_rng(0).integers(0, 512, 41).tolist()
"""Of which number 18 has two experts 0.0017 apart in the first layer of tiny-qwen35moe in Q5_K."""
BOUND = 8e-3
"""Of a whole prompt's distance in tests/gpu/test_gpu_engine.py."""


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def moved(path: Path, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's logits, and those where a router's last choice and the next one are 0.002 nearer."""
    wanted, router = reference.reference_logits(path, tokens), reference._router

    def nearer(file, config, sizes, block, x):
        logits = router(file, config, sizes, block, x)
        used, row = sizes.mixture.used, torch.arange(len(logits))
        order = logits.argsort(-1, descending=True)
        logits[row, order[:, used - 1]] -= 1e-3
        logits[row, order[:, used]] += 1e-3
        return logits

    monkeypatch.setattr(reference, "_router", nearer)
    return reference.reference_logits(path, tokens), wanted


def test_later_tokens_see_the_other_choice_too(
    made: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, wanted = moved(made("tiny-qwen35moe", "Q5_K"), TOKENS, monkeypatch)
    assert distance(found[:18], wanted[:18]) < 2e-3
    assert distance(found[19:], wanted[19:]) > 5 * BOUND


@pytest.mark.parametrize("shape", ["tiny-qwen35moe", "tiny-gpt-oss"])
def test_a_settled_text_has_none(made: Callable[[str, str], Path], shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(shape, "Q5_K")
    assert distance(*moved(path, settled(path, 41), monkeypatch)) < 2e-3


def test_without_a_mixture_any_text_is(tiny_model: Path) -> None:
    assert settled(tiny_model, 41) == TOKENS
