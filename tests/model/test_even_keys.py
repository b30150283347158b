"""Norm weights with no channel of a key larger than another: scores stay what they are, keys become alike."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernel_templates import float64
from kernel_templates.attention import cache

pytest.importorskip("triton")

from model.cuda import even_keys

EPS = 1e-6


@given(st.sampled_from([(16, 16), (32, 32), (32, 8), (64, 32)]), st.integers(0, 99))
def test_scores_stay(shape: tuple[int, int], seed: int) -> None:
    """Of queries and keys at any two positions, whatever part of a head turns."""
    head_dim, rope_dim = shape
    rng = np.random.default_rng(seed)
    norms = {
        n: torch.from_numpy(np.exp(rng.uniform(-3, 4.5, head_dim)).astype(np.float32)) for n in ("q_norm", "k_norm")
    }
    if seed % 3 == 0:
        norms["k_norm"][rng.integers(head_dim)] = 0
    factor = even_keys.factors(norms["k_norm"], head_dim, rope_dim)
    made = even_keys.evened(norms, factor)

    def turned(x: np.ndarray, norm: torch.Tensor, position: int) -> np.ndarray:
        angles = position * 1e4 ** (-np.arange(0, rope_dim, 2) / rope_dim)
        return float64.rope(float64.rms_norm(x, norm.double().numpy(), EPS), np.cos(angles), np.sin(angles))

    q, k = rng.standard_normal((2, 5, head_dim))
    before = turned(q, norms["q_norm"], 9) @ turned(k, norms["k_norm"], 4).T
    after = turned(q, made["q_norm"], 9) @ turned(k, made["k_norm"], 4).T
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    spread = turned(rng.standard_normal((4000, head_dim)), made["k_norm"], 4).std(0)
    assert spread[norms["k_norm"].numpy() > 0].max() < 1.5


def test_an_outlier_costs_what_other_channels_cost() -> None:
    """K-norm weights of 96 beside 1, as Qwen3 has them: the error of attention's scores, with and without."""
    rng = torch.Generator().manual_seed(0)
    head_dim = 128
    q, k = torch.randn(64, head_dim, generator=rng), torch.randn(200, head_dim, generator=rng)
    norm = torch.ones(head_dim)
    norm[7] = 96.5
    factor = even_keys.factors(norm, head_dim, head_dim)
    small = torch.tensor(
        [d for d in range(head_dim) if d not in (7, 7 + head_dim // 2)]
    )  # RoPE turns one into the other
    off = {}
    for name, by in (("as it is", torch.ones(head_dim)), ("evened", factor)):
        stored = cache.stored(k * norm / by, cache.Q8_0)
        exact = (q[:, small] @ (k * norm)[:, small].T).double()
        off[name] = float(((q * by)[:, small] @ stored[:, small].T - exact).norm() / exact.norm())
    assert off["evened"] < 0.02 and off["as it is"] > 10 * off["evened"]
