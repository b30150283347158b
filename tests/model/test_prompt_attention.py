"""Attention of prompts with windows and soft caps against float64, whatever blocks it is done in."""

import math

import pytest
import torch

from kernel_templates.attention import cache
from model import prompt_attention
from model.layer_traits import LayerTraits


def expected(q, k, v, first, traits):
    """float64 [tokens, heads * head_dim], one token after the other."""
    group, made = q.shape[1] // len(k), []
    for i, token in enumerate(q.double()):
        end = first + i + 1
        low = max(end - traits.window, 0) if traits.window else 0
        keys, values = (t.double()[:, low:end].repeat_interleave(group, 0) for t in (k, v))
        s = (keys @ token[:, :, None])[..., 0] * (traits.scale or 1 / math.sqrt(q.shape[-1]))
        if traits.softcap:
            s = traits.softcap * torch.tanh(s / traits.softcap)
        made.append((s.softmax(-1)[:, None] @ values)[:, 0].flatten())
    return torch.stack(made)


@pytest.mark.parametrize("first", [0, 70])
@pytest.mark.parametrize(
    "traits",
    [
        LayerTraits(window=1), LayerTraits(window=64), LayerTraits(window=33, scale=0.3), LayerTraits(softcap=4.0),
        LayerTraits(window=150, softcap=4.0, scale=0.5), LayerTraits(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scores", [1 << 25, 3000])
def test_any_chunk_in_any_blocks(traits, first, scores, monkeypatch):
    monkeypatch.setattr(prompt_attention, "SCORES", scores)
    made = torch.Generator().manual_seed(first + traits.window)
    q, k, v = (torch.randn(shape, generator=made) for shape in ((131, 6, 48), (2, 201, 48), (2, 201, 48)))
    k, v = k[:, : first + 131], v[:, : first + 131]
    found, wanted = prompt_attention.attend(q, k, v, first, traits, torch.mm), expected(q, k, v, first, traits)
    assert found.shape == (131, 6 * 48)
    assert (found - wanted).norm() / wanted.norm() < 2e-6


@pytest.mark.parametrize("positions", [512, 8192, 1 << 17])
def test_memory_does_not_grow_with_the_context(positions):
    for traits in (LayerTraits(softcap=50.0), LayerTraits(softcap=50.0, window=4096)):
        tokens = prompt_attention._block(32, positions, traits)
        seen = min(positions, traits.window + tokens) if traits.window else positions
        assert tokens >= 1 and 32 * tokens * seen <= prompt_attention.SCORES


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 200), (63, 65), (64, 128), (130, 131), (100, 100)])
def test_a_stretch_of_the_cache(first, end):
    keys, values = cache.allocate(2, 16, 200)
    k, v = torch.randn(2, 200, 2, 16).half()
    cache.write(keys, values, k, v, 0)
    for found, written in zip(cache.read(keys, values, end, first), (k, v), strict=True):
        assert torch.equal(found, written[first:end].transpose(0, 1).float())
