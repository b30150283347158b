"""Weight matrices in the order a CPU kernel reads them: tiles of `lanes` rows, interleaved word by word.

A matrix's planes (see `formats`) are [rows, blocks, per block]; here each is [tile][block][per block][lane], so that
one SIMD vector holds the same word of `lanes` consecutive rows and a tile streams through memory front to back.
In a prototype, interleaving let the compiler reach 30 GB/s instead of 3 on two cores (docs/log.md). The last tile is
padded with zero rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kernel_templates import formats, memory

# The order in which kernels expect the planes of a format.
PLANES = {
    "Q4_0": ("quants", "scale"),
    "Q4_1": ("quants", "scale", "minimum"),
    "Q8_0": ("quants", "scale"),
    "Q6_K": ("low", "high", "subscale", "scale"),
    "F16": ("values",),
    "BF16": ("values",),
    "F32": ("values",),
}
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

    def arguments(self) -> tuple:
        """Exactly MAX_PLANES kernel arguments, the unused ones 0."""
        return self.planes + (0,) * (MAX_PLANES - len(self.planes))


def tile_count(rows: int, lanes: int) -> int:
    return -(-rows // lanes)


def padded(rows: int, lanes: int) -> int:
    """Rows including those that only fill the last tile: what an output buffer must hold."""
    return tile_count(rows, lanes) * lanes


def pack(raw: torch.Tensor, cols: int, format_name: str, lanes: int) -> Tiles:
    """Interleave a matrix. raw: uint8 [rows, row bytes] in the file's own layout."""
    rows = raw.shape[0]
    planes = formats.get(format_name).to_planes(raw)
    packed = tuple(_interleave(planes[name], rows, lanes) for name in PLANES[format_name])
    return Tiles(rows, cols, format_name, lanes, packed)


def _interleave(plane: torch.Tensor, rows: int, lanes: int) -> np.ndarray:
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
