"""Which formats a test of compiled kernels goes through, and bytes that any file may hold."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kernel_templates.formats import FORMATS, Format
from kernel_templates.formats.layout import Floats

# Between them they have every trait: floats of each kind; quants of 3, 4, 5, 6 and 8 bits, signed, with a zero and with
# a codebook; minimums, subscales of each size, subminimums; scales that are exponents.
ALL_TRAITS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q3_K", "Q5_K", "Q6_K", "MXFP4")

TWO = ("Q4_0", "Q6_K")
"""Plain quants of four bits; quants of six in two planes with subscales, which take the most registers."""


def few(names: list[str] | None = None) -> list:
    """Parameters of a test that takes long: those of ALL_TRAITS, and as slow tests the rest."""
    names = list(FORMATS) if names is None else names
    return [name if name in ALL_TRAITS else pytest.param(name, marks=pytest.mark.slow) for name in names]


def two(names: list[str] | None = None) -> list:
    """Parameters of a test of shapes or chips, where another goes through formats: TWO, and as slow tests the rest."""
    names = list(FORMATS) if names is None else names
    return [name if name in TWO else pytest.param(name, marks=pytest.mark.slow) for name in names]


def any_bytes(fmt: Format, rows: int, cols: int, seed: int = 1) -> Tensor:
    """uint8 [rows, bytes]: any codes under finite scales, exponents far from float32's limits."""
    raw = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, fmt.row_bytes(cols)), np.uint8))
    layout, blocks = fmt.layout, fmt.blocks(raw)
    if isinstance(layout, Floats):
        blocks[..., -1] &= 0xBF
        return raw
    if layout.exponent:
        blocks[..., layout.scale].clamp_max_(240)
    for at in (None if layout.exponent else layout.scale, layout.minimum):
        if at is not None:
            blocks[..., at + 1] &= 0xBF
    return raw
