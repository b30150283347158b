"""What a format's declaration is made of: where in a block its numbers lie, and what they mean.

    weight = scale · subscale · quant + minimum, or with subminimums
    weight = scale · subscale · quant - minimum · subminimum

Torch's reader, the planes that kernels load, their unpacking and products, and the embedding lookup follow from a
layout. Layouts are hashable: the GPU's kernels take them as compile-time constants.
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np

from kernel_templates.lazy import torch

KINDS = {"f16": 2, "bf16": 2, "f32": 4}
"""Bytes of the floating-point types of weights, by LLVM's names."""


@dataclass(frozen=True)
class Bits:
    """Where `width` bits of each of many numbers lie, in bytes from `at` on.

    The first `run` numbers have them at the bottom of `run` bytes, number after number; the next `run` have them in
    the bits above, and so on. When those bytes are full, the next `run` bytes follow.
    """

    at: int
    width: int
    run: int

    @property
    def chunk(self) -> int:
        """Numbers that share `run` bytes."""
        return self.run * (8 // self.width)

    def place(self, number: int) -> tuple[int, int]:
        """(byte of the block, lowest bit in it) of a number."""
        chunk, within = divmod(number, self.chunk)
        shift, byte = divmod(within, self.run)
        return self.at + chunk * self.run + byte, shift * self.width


@dataclass(frozen=True)
class Places:
    """Where `width` bits of each of a few numbers lie that follow no rule: (byte of the block, lowest bit in it)."""

    width: int
    each: tuple[tuple[int, int], ...]

    def place(self, number: int) -> tuple[int, int]:
        return self.each[number]

    @property
    def first(self) -> int:
        """The first byte of all."""
        return min(byte for byte, _ in self.each)

    @property
    def bytes_table(self) -> int:
        """Where the numbers lie after `first`, as an int64 of four bits each; kernels have no tables."""
        return _int64([byte - self.first for byte, _ in self.each])

    @property
    def shifts_table(self) -> int:
        return _int64([shift for _, shift in self.each])


B = TypeVar("B", Bits, Places)


@dataclass(frozen=True)
class Codes(Generic[B]):
    """Small whole numbers: the bits of `low`, and above them those of `high`.

    A code stands for itself less `zero`, which is 0 or half of the codes there are; or, where there is a `codebook`,
    for its entry there, an int8.
    """

    low: B
    high: B | None = None
    zero: int = 0
    signed: bool = False
    """The code is in two's complement."""
    codebook: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.zero not in (0, 1 << (self.bits - 1)):
            raise ValueError(f"codes of {self.bits} bits are centered at 0 or {1 << (self.bits - 1)}, not {self.zero}")
        if self.codebook is not None and (len(self.codebook), self.bits) != (16, 4):
            raise ValueError(
                f"a codebook has an entry for each code of 4 bits, not {len(self.codebook)} for {self.bits}"
            )

    @property
    def codebook_words(self) -> tuple[int, ...] | None:
        """The codebook as four int32, the first entry in the lowest byte."""
        if self.codebook is None:
            return None
        data = bytes(entry & 255 for entry in self.codebook)
        return tuple(int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, 16, 4))

    @property
    def bits(self) -> int:
        return self.low.width + (self.high.width if self.high else 0)


@dataclass(frozen=True)
class Blocks:
    """Quantized weights in blocks of `size`. Places are bytes from the block's beginning."""

    kind: ClassVar[str] = ""
    """These are no floats."""

    size: int
    quants: Codes[Bits]
    scale: int
    """Where the scale lies: a float16."""
    minimum: int | None = None
    """Where the minimum lies, a float16; None where there is none."""
    group: int = 0
    """Weights that share a scale: 16 or 32 under subscales, else the whole block."""
    subscales: Codes[Bits] | Codes[Places] | None = None
    subminimums: Codes[Bits] | Codes[Places] | None = None
    exponent: bool = False
    """The scale is one byte e, E8M0 halved: 2^(e - 128)."""

    def __post_init__(self) -> None:
        if self.subscales is None:
            object.__setattr__(self, "group", self.size)
        elif self.group not in (16, 32):
            raise ValueError(f"subscales are for 16 or 32 weights, not {self.group}")
        if self.subminimums is not None and (self.subscales is None or self.minimum is None):
            raise ValueError("subminimums stand beside subscales and multiply a minimum")

    @property
    def groups(self) -> int:
        """How many of them a block has."""
        return self.size // self.group

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        bits = self.size * self.quants.bits
        bits += self.groups * sum(codes.bits for codes in (self.subscales, self.subminimums) if codes)
        return bits // 8 + (1 if self.exponent else 2) + (0 if self.minimum is None else 2)


@dataclass(frozen=True)
class Floats:
    """Weights that are numbers of their own, little-endian: no blocks, no scales. kind: a key of KINDS."""

    kind: str

    @property
    def size(self) -> int:
        return 1

    @property
    def dtype(self) -> "torch.dtype":
        return {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[self.kind]

    def numbers(self, data: np.ndarray) -> np.ndarray:
        """uint8 [..., bytes] -> float32 [..., numbers]."""
        if self.kind == "bf16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return data.view("<f2" if self.kind == "f16" else "<f4").astype(np.float32)

    @property
    def nbytes(self) -> int:
        return KINDS[self.kind]


Layout = Blocks | Floats


def _int64(nibbles: list[int]) -> int:
    """Numbers of four bits in one, the first in the lowest."""
    word = sum(nibble << 4 * i for i, nibble in enumerate(nibbles))
    return word - (1 << 64) if word >> 63 else word
