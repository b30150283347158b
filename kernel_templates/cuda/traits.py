"""What a GPU kernel knows of a packed matrix when it is compiled: its weights' traits, never a format's name.

A packed matrix has at most four planes, in this order and as far as its weights have them. Columns are packed by runs
of 32, in the order of `vector`: word w of a run has columns 8w..8w+3 in one half and 8w+4..8w+7 in the other.

    quants     int32 [rows, runs, 4]: 4 bits a column, columns 8w + j in byte j, in the low nibble for j < 4, columns
               8w + 4 + j in the high one; with a codebook column 8w + k in the k-th nibble
               int32 [rows, runs, 8]: 8 bits a column, byte by byte in the order of a vector's planes; in rows that are
               no whole blocks of these, all first halves of a run's words before its second ones
               int32: floats; word w of 16 bytes has columns w (low half) and w + 4 of their eight, or one float32
    pairs      int64 [rows, runs]: 2 bits a column, bits 2w and 2w + 1 of byte j for column 8w + j
    ones       int32 [rows, runs]: 1 bit a column, bits w (first half) and w + 4 (second) of byte j
    codes      int8, int16 or int32 [rows, runs]: the subscales of a run, above them its subminimums, int8 each
    scale      float16 [rows, runs or, under subscales, super-blocks]; uint8, exponents; with subminimums the minimum
               above it, int32
    minimum    float16 [rows, runs]

Quants around a zero in the middle are stored in two's complement.
"""

import functools
from dataclasses import dataclass

from kernel_templates import formats
from kernel_templates.formats.layout import Floats

RUN = 32
LINE_RUNS = 8
"""Runs whose halves lie together in a vector, for a line of the first-level cache each."""
BLOCK = LINE_RUNS * RUN


@dataclass(frozen=True)
class Traits:
    """A matrix's weights, as kernels take them for a constant."""

    kind: str
    """"f16", "bf16" or "f32"; "" for quants."""
    bits: int
    """Of a quant: 8, or the sum of 4 in `quants`, 2 in `pairs` and 1 in `ones`."""
    signed: bool
    """Quants are in two's complement."""
    codebook: tuple[int, ...] | None
    """16 int8 in four words."""
    size: int
    """Columns that share a scale."""
    group: int
    """Columns that share a subscale: 16 or 32; 0 without subscales."""
    minimum: bool
    subminimum: bool
    """The minimum is subtracted, times a subminimum."""

    @property
    def unit(self) -> int:
        """Columns in the 16 bytes of quants that one load brings; of fewer bits a run, in fewer bytes."""
        if self.kind:
            return 4 if self.kind == "f32" else 8
        return 16 if self.bits == 8 else 32

    @property
    def line(self) -> int:
        """LINE_RUNS, for kernels."""
        return LINE_RUNS

    @property
    def block(self) -> int:
        """BLOCK, for kernels."""
        return BLOCK

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the planes, in the order of the kernels' pointers and of a tile's parts."""
        if self.kind:
            return ("quants",)
        found = {
            "quants": self.bits & 12, "pairs": self.bits & 2, "ones": self.bits & 1, "codes": self.group,
            "scale": True, "minimum": self.minimum and not self.subminimum,
        }  # fmt: skip
        return tuple(name for name, there in found.items() if there)

    @property
    def tile_words(self) -> int:
        """Words of 32 bits that a thread holds of a row in a tile: quants and scales."""
        words = {"quants": 4, "pairs": 2}
        return sum(words.get(name, 1) for name in self.planes)

    @property
    def pairs(self) -> int:
        """Which plane it is, and so for the others."""
        return self._plane("pairs")

    @property
    def ones(self) -> int:
        return self._plane("ones")

    @property
    def codes(self) -> int:
        return self._plane("codes")

    @property
    def scale(self) -> int:
        return self._plane("scale")

    @property
    def lowest(self) -> int:
        return self._plane("minimum")

    @property
    def lift(self) -> int:
        """Bits by which quants are multiplied too high: two's complement stands at the top of its byte."""
        return 8 - self.bits if self.signed else 0

    @property
    def unlift(self) -> float:
        return 0.5**self.lift

    @property
    def nibble_mask(self) -> int:
        """Where the lowest four bits lie in a word of four lifted quants; int32."""
        return _signed(0x0F0F0F0F << self.lift)

    @property
    def pair_at(self) -> int:
        """Where the bits of `pairs` begin in a lifted quant."""
        return self.lift + (self.bits & 4)

    @property
    def pair_mask(self) -> int:
        return _signed(0x03030303 << self.pair_at)

    @property
    def one_at(self) -> int:
        return self.lift + self.bits - 1

    def _plane(self, name: str) -> int:
        return self.planes.index(name) if name in self.planes else -1


def line_runs(cols: int) -> int:
    """Of how many runs the first halves lie together in rows of so many bytes: as in a vector, or, where rows are no
    whole blocks of it, of one."""
    return LINE_RUNS if cols % BLOCK == 0 else 1


def _signed(word: int) -> int:
    """32 bits as an int32."""
    return (word & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


@functools.cache
def of_format(name: str) -> Traits:
    """The traits of the format called `name` as `weights` packs it."""
    layout = formats.get(name).layout
    if isinstance(layout, Floats):
        return Traits(layout.kind, 8 * layout.nbytes, False, None, 1, 0, False, False)
    quants = layout.quants
    return Traits(
        kind="",
        bits=quants.bits,
        signed=quants.signed or quants.zero > 0,
        codebook=quants.codebook_words,
        size=layout.size,
        group=0 if layout.subscales is None else layout.group,
        minimum=layout.minimum is not None,
        subminimum=layout.subminimums is not None,
    )
