"""Formats of ggml's that the product does not declare yet, as layouts alone: what all that follows from one must hold.

Each has traits that no declared format has: a bit above four, two and three bits, packed subscales, subminimums,
codebooks, scales that are exponents. Whoever declares one takes it from here.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from kernel_templates.formats import FORMATS, Format, codec
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Bits, Blocks, Codes, Places

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
# Of eight subscales of six bits, the last four have their upper bits above those of the first four; so have the
# subminimums, in the next four bytes. The last four of both share bytes for their lower bits.
SUBSCALES = Codes(
    low=Places(4, tuple((j if j < 4 else 4 + j, 0) for j in range(8))),
    high=Places(2, tuple((j % 4, 4 + j // 4 * 2) for j in range(8))),
)
SUBMINIMUMS = Codes(
    low=Places(4, tuple((4 + j, j // 4 * 4) for j in range(8))),
    high=Places(2, tuple((4 + j % 4, 4 + j // 4 * 2) for j in range(8))),
)


def moved(codes: Codes, by: int) -> Codes:
    """The same codes `by` bytes further on."""
    low, high = (Places(p.width, tuple((at + by, shift) for at, shift in p.each)) for p in (codes.low, codes.high))
    return Codes(low, high, codes.zero)


LAYOUTS = {
    ("Q5_0", 6): Blocks(32, Codes(Bits(6, 4, 16), Bits(2, 1, 1), zero=16), scale=0),
    ("Q5_1", 7): Blocks(32, Codes(Bits(8, 4, 16), Bits(4, 1, 1)), scale=0, minimum=2),
    ("Q2_K", 10): Blocks(
        256, Codes(Bits(16, 2, 32)), scale=80, minimum=82, group=16,
        subscales=Codes(Places(4, tuple((j, 0) for j in range(16)))),
        subminimums=Codes(Places(4, tuple((j, 4) for j in range(16)))),
    ),
    ("Q3_K", 11): Blocks(
        256, Codes(Bits(32, 2, 32), Bits(0, 1, 32), zero=4), scale=108, group=16,
        subscales=Codes(
            Places(4, tuple((96 + j % 8, j // 8 * 4) for j in range(16))),
            Places(2, tuple((104 + j % 4, j // 4 * 2) for j in range(16))),
            zero=32,
        ),
    ),
    ("Q4_K", 12): Blocks(
        256, Codes(Bits(16, 4, 32)), scale=0, minimum=2, group=32,
        subscales=moved(SUBSCALES, 4), subminimums=moved(SUBMINIMUMS, 4),
    ),
    ("Q5_K", 13): Blocks(
        256, Codes(Bits(48, 4, 32), Bits(16, 1, 32)), scale=0, minimum=2, group=32,
        subscales=moved(SUBSCALES, 4), subminimums=moved(SUBMINIMUMS, 4),
    ),
    ("IQ4_NL", 20): Blocks(32, Codes(Bits(2, 4, 16), codebook=IQ4), scale=0),
    ("IQ4_XS", 23): Blocks(
        256, Codes(Bits(8, 4, 16), codebook=IQ4), scale=0, group=32,
        subscales=Codes(
            Places(4, tuple((4 + j // 2, j % 2 * 4) for j in range(8))),
            Places(2, tuple((2 + j // 4, j % 4 * 2) for j in range(8))),
            zero=32,
        ),
    ),
    ("MXFP4", 39): Blocks(32, Codes(Bits(1, 4, 16), codebook=E2M1), scale=0, exponent=True),
}  # fmt: skip


def random_fields(x: Tensor, layout: Blocks) -> Fields:
    """Any codes, with scales that give them about the size of x: no quantizer, but blocks of every kind."""
    chance = torch.Generator().manual_seed(x.numel())
    shape = x.shape[:-1]

    def codes(kind: Codes | None, count: int) -> Tensor | None:
        if kind is None:
            return None
        return torch.randint(0, 1 << kind.bits, (*shape, count), generator=chance, dtype=torch.uint8)

    quants = codes(layout.quants, layout.size)
    subscales, subminimums = codes(layout.subscales, layout.groups), codes(layout.subminimums, layout.groups)
    one = torch.full(shape, 128, dtype=torch.uint8) if layout.exponent else torch.ones(shape)
    none = None if layout.minimum is None else torch.zeros(shape)
    size = codec.weights(Fields(quants, one, none, subscales, subminimums), layout).std(-1)
    scale = (x.std(-1) / size) * (0.5 + torch.rand(shape, generator=chance))
    minimum = None if layout.minimum is None else scale * -size
    if layout.subminimums is not None:
        minimum = -minimum / (1 << layout.subminimums.bits)
    exponent = (scale.log2().round() + 128).clamp(0, 255).to(torch.uint8)
    return Fields(quants, exponent if layout.exponent else scale, minimum, subscales, subminimums)


COMING = {
    name: Format(name, number, layout, random_fields)
    for (name, number), layout in LAYOUTS.items()
    if name not in FORMATS
}


FEW = ("Q5_0", "Q3_K", "Q5_K", "MXFP4")  # every trait at least once


@pytest.fixture(params=[name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in COMING])
def fmt(request, monkeypatch) -> Format:
    """One of them, in the registry while a test runs, as if its file were there."""
    monkeypatch.setitem(FORMATS, request.param, COMING[request.param])
    return COMING[request.param]


def any_bytes(fmt: Format, rows: int, cols: int) -> Tensor:
    """uint8 [rows, bytes] with finite scales, exponents far from float32's limits."""
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (rows, fmt.row_bytes(cols)), np.uint8))
    layout, blocks = fmt.layout, fmt.blocks(raw)
    if layout.exponent:
        blocks[..., layout.scale].clamp_max_(240)
    for at in (None if layout.exponent else layout.scale, layout.minimum):
        if at is not None:
            blocks[..., at + 1] &= 0xBF
    return raw
