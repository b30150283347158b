"""Weight matrices in the order a CPU kernel reads them: tiles of `lanes` rows, interleaved word by word.

A matrix's planes are [rows, blocks, per block]; here each is [tile][block][per block][lane], so that one SIMD vector
holds the same word of `lanes` consecutive rows and a tile streams through memory front to back. In a prototype,
interleaving let the compiler reach 30 GB/s instead of 3 on two cores (docs/log.md). The last tile is padded with zero
rows.

Planes of quantized weights are, in this order and as far as the format has them:

    low, high   the quants' bits, words of four bytes
    codes       the subscales of a block, then its subminimums: the numbers they stand for, int8
    scale       float16, or an exponent; with subminimums the minimum beside it, as there are four planes at most
    minimum     float16
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from kernel_templates import formats, memory
from kernel_templates.formats import codec
from kernel_templates.formats.layout import Bits, Blocks, Floats
from kernel_templates.lazy import Tensor, torch

MAX_PLANES = 4


@dataclass(frozen=True)
class Tiles:
    """A packed matrix: `planes` in the kernel's order, each a C-contiguous array."""

    rows: int
    cols: int
    format: str
    lanes: int
    planes: tuple[np.ndarray, ...]

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.planes)

    def plane_sizes(self) -> list[int]:
        """The bytes that each plane must have. ValueError for an unknown format or a part of a block."""
        fmt = formats.get(self.format)
        fmt.row_bytes(self.cols)
        blocks = padded(self.rows, self.lanes) * (self.cols // fmt.block)
        sizes = plane_bytes(fmt.layout).values() if isinstance(fmt.layout, Blocks) else (fmt.block_bytes,)
        return [blocks * size for size in sizes]

    def arguments(self) -> tuple:
        """Exactly MAX_PLANES kernel arguments, the unused ones 0."""
        return self.planes + (0,) * (MAX_PLANES - len(self.planes))


def tile_count(rows: int, lanes: int) -> int:
    return -(-rows // lanes)


def padded(rows: int, lanes: int) -> int:
    """Rows including those that only fill the last tile: what an output buffer must hold."""
    return tile_count(rows, lanes) * lanes


def pack(raw: Tensor, cols: int, format_name: str, lanes: int) -> Tiles:
    """Interleave a matrix. raw: uint8 [rows, row bytes] in the file's own layout."""
    rows, fmt = raw.shape[0], formats.get(format_name)
    blocks = fmt.blocks(raw)
    if isinstance(fmt.layout, Floats):
        planes = [codec.reinterpret(blocks, fmt.layout.dtype)]
    else:
        planes = split(blocks, fmt.layout)
    return Tiles(rows, cols, format_name, lanes, tuple(_interleave(plane, rows, lanes) for plane in planes))


@functools.cache
def plane_bytes(layout: Blocks) -> dict[str, int]:
    """Bytes of a block in each plane, by the plane's name, in the kernel's order."""
    sizes = {"low": layout.size * layout.quants.low.width // 8}
    if layout.quants.high is not None:
        sizes["high"] = layout.size * layout.quants.high.width // 8
    if layout.subscales is not None:
        sizes["codes"] = layout.groups * (1 if layout.subminimums is None else 2)
    sizes["scale"] = 1 if layout.exponent else 2
    if layout.subminimums is not None:
        sizes["scale"] += 2
    elif layout.minimum is not None:
        sizes["minimum"] = 2
    return sizes


def word_bits(bits: Bits) -> Bits:
    """Where a plane of words has these bits: as the file, if it has four neighbours in one word's bytes."""
    return replace(bits, at=0, run=bits.run if bits.run % 4 == 0 else 4)


def split(blocks: Tensor, layout: Blocks) -> list[Tensor]:
    """uint8 [rows, blocks, bytes] -> the planes in the kernel's order, each [rows, blocks, per block]."""
    planes = [_words(blocks, bits, layout.size) for bits in (layout.quants.low, layout.quants.high) if bits is not None]
    halves = [half for half in codec.read_scales(blocks, layout) if half is not None]
    codes = [
        codec.meaning(codec.read_codes(blocks, codes, layout.groups), codes)
        for codes in (layout.subscales, layout.subminimums)
        if codes is not None
    ]
    if codes:
        planes.append(torch.cat(codes, -1).to(torch.int8))
    return [*planes, torch.stack(halves, -1)] if layout.subminimums is not None else planes + halves


def _words(blocks: Tensor, bits: Bits, count: int) -> Tensor:
    """These bits of `count` quants, int32 [rows, blocks, words]."""
    if word_bits(bits) == replace(bits, at=0):
        held = blocks[..., bits.at : bits.at + count * bits.width // 8]
    else:
        held = codec.pack_bits(codec.read_bits(blocks, bits, count), word_bits(bits))
    return codec.reinterpret(held, torch.int32)


def _interleave(plane: Tensor, rows: int, lanes: int) -> np.ndarray:
    if plane.dtype == torch.bfloat16:
        plane = plane.view(torch.int16)  # numpy has no bfloat16; only the bits travel
    flat = plane.reshape(rows, -1)
    tiles, whole = tile_count(rows, lanes), rows // lanes
    out = memory.empty((tiles, flat.shape[1], lanes), flat.numpy().dtype)
    target = torch.from_numpy(out)
    target[:whole] = flat[: whole * lanes].view(whole, lanes, flat.shape[1]).transpose(1, 2)
    if whole < tiles:
        target[whole] = 0
        target[whole, :, : rows - whole * lanes] = flat[whole * lanes :].T
    return out
