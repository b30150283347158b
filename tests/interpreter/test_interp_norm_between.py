"""Two products of few tokens with a norm between them that has no kernel of its own, against float64."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import fragments, norm_between, thin, weights
from kernel_templates.cuda.fragments import THIN
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.norm_between import HEADROOM, Behind, InFront
from kernel_templates.operation import Weight

EPS = 1e-6
GATES: dict[str, Any] = {
    "silu": torch.nn.functional.silu,
    "gelu": partial(torch.nn.functional.gelu, approximate="tanh"),
}


def values(weight: Weight, name: str) -> torch.Tensor:
    return formats.get(name).dequantize(weight.raw).double().view(weight.rows, weight.cols)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


@pytest.mark.parametrize(
    ("tokens", "hidden", "name", "front", "behind", "gate"),
    [
        (1, 96, "Q4_0", {"tiles": 1, "warps": 2}, {"tiles": 1, "warps": 1}, ""),
        (5, 96, "Q4_0", {"tiles": 4, "warps": 4, "ready": True}, {"tiles": 2, "warps": 2, "ready": True}, "silu"),
        (8, 512, "Q5_K", {"tiles": 2, "warps": 1}, {"tiles": 1, "warps": 4, "split": 3}, ""),
        (12, 160, "Q8_0", {"tiles": 2, "warps": 8}, {"tiles": 4, "warps": 1, "split": 2}, "gelu"),
    ],
)
def test_both_products_are_those_around_the_norm(
    tokens: int, hidden: int, name: str, front: dict[str, Any], behind: dict[str, Any], gate: str
) -> None:  # fmt: skip
    """Also what is left of the stream, and of the norm for the one after it. A stream of large and of small values."""
    inner, rows = 256, 64
    rng = np.random.default_rng(hidden + tokens)
    first = random_inputs.weight(hidden, inner, name, rng)
    second = random_inputs.weight(rows * (2 if gate else 1), hidden, name, rng)
    a = torch.from_numpy(rng.standard_normal((tokens, inner))).half()
    size = torch.from_numpy(10.0 ** rng.uniform(-2, 4, (tokens, 1)))
    stream = (size * torch.from_numpy(rng.standard_normal((tokens, hidden)))).float()
    weight = torch.from_numpy(rng.uniform(0.2, 3, hidden)).float()
    before, after = (HEADROOM.value / size).float().ravel(), torch.full((tokens,), torch.nan)
    squares = torch.full((norm_between.square_count(hidden, tokens),), torch.nan)
    counters, scratch = torch.zeros(64, dtype=torch.int32), torch.full((1 << 16,), torch.nan)
    h = torch.zeros(tokens, fragments.width(hidden, THIN), dtype=torch.float16)
    x = stream.clone()
    thin.launch(
        weights.pack([first], "cpu"), fragments.arranged(a, THIN), h, scratch, counters, tokens=tokens, ahead=1,
        **front, norm=InFront(x, weight, 0.5, squares, before),
    ).run(INTERPRETED)  # fmt: skip
    branch = 0.5 * a.double() @ values(first, name).T
    assert ((x - stream.double() - branch).norm(dim=1) < 1e-3 * branch.norm(dim=1) + 1e-6 * x.norm(dim=1)).all()
    parts = thin.programs(hidden, front["tiles"], "")
    y = torch.full((tokens, rows), torch.nan, dtype=torch.float16 if gate else torch.float32)
    thin.launch(
        weights.pack([second], "cpu"), h, y, scratch, counters, tokens=tokens, gate=gate, ahead=1, **behind,
        norm=Behind(parts, squares, before, after, EPS),
    ).run(INTERPRETED)  # fmt: skip
    results = normed(x.double(), weight.double()) @ values(second, name).T
    if gate:
        results = GATED_SCALE.value * GATES[gate](results[:, :rows]) * results[:, rows:]
    assert all(distance(*of_token) < 1e-3 for of_token in zip(y, results, strict=True))
    assert after * (x.double().pow(2).mean(-1) + EPS).sqrt() == pytest.approx(HEADROOM.value, rel=1e-6)
