"""Weights as GPU kernels read them: the file's quants and scales in separate planes, 16 bytes a load, nothing lost.

Columns are packed by runs of 32, in the order of `vector`: word w of a run holds columns 8w..8w+3 in its low nibbles
and 8w+4..8w+7 in its high ones; with bytes instead of nibbles, 16 bytes of the former come before 16 of the latter.

    Q4_0  quants int32 [rows, runs, 4], two's complement nibbles (quant - 8); scale float16 [rows, runs]
    Q4_1  quants int32 [rows, runs, 4], unsigned; scale, minimum float16 [rows, runs]
    Q8_0  quants int32 [rows, runs, 8]; scale float16 [rows, runs]
    Q6_K  low int32 [rows, runs, 4], the low 4 bits of (quant - 32) in two's complement; high int64 [rows, runs]: bits
          2w, 2w + 1 of byte j are the upper bits of column 8w + j (j < 4) or 8w + j (4 <= j < 8);
          subscale int16 [rows, runs], two int8; scale float16 [rows, runs / 8]
    F16, BF16  words int32 [rows, cols / 2]: word w of 16 bytes holds columns w (low half) and w + 4 of their eight
    F32   words int32 [rows, cols]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernel_templates import formats
from kernel_templates.cuda.vector import memory_order
from kernel_templates.operation import Weight

_CHUNK_ROWS = 1 << 14  # a head is packed in parts, so that its bytes are not there five times over
_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Planes:
    """One packed matrix on a device; several matrices of one format may lie in one, row after row."""

    format: str
    rows: int
    cols: int
    tensors: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)

    @property
    def pointers(self) -> tuple[torch.Tensor, ...]:
        """The planes, always four: kernels take as many whatever the format."""
        return (*self.tensors, *[self.tensors[0]] * (4 - len(self.tensors)))


def pack(weights: Sequence[Weight], device: str | torch.device) -> Planes:
    """Matrices of one format and width, one below the other."""
    first = weights[0]
    if any((w.format, w.cols) != (first.format, first.cols) for w in weights):
        raise ValueError("matrices packed together must have one format and width")
    parts = [_pack(some.to(device), first.format) for w in weights for some in w.raw.split(_CHUNK_ROWS)]
    tensors = tuple(planes[0] if len(planes) == 1 else torch.cat(planes) for planes in zip(*parts, strict=True))
    return Planes(first.format, sum(w.rows for w in weights), first.cols, tuple(t.contiguous() for t in tensors))


def _pack(raw: torch.Tensor, name: str) -> tuple[torch.Tensor, ...]:
    if name in _FLOATS:
        if name == "F32":
            return (raw.view(torch.int32),)
        eights = raw.view(torch.int16).view(len(raw), -1, 2, 4).transpose(2, 3)
        return (eights.contiguous().view(torch.int32).view(len(raw), -1),)
    planes = formats.get(name).to_planes(raw)
    rows = len(raw)
    if name in ("Q4_0", "Q4_1"):
        quants = _nibbles(planes["quants"])
        if name == "Q4_0":
            return _pack_nibbles(quants ^ 8), planes["scale"]
        return _pack_nibbles(quants), planes["scale"], planes["minimum"]
    if name == "Q8_0":
        quants = planes["quants"].contiguous().view(torch.uint8).view(rows, -1)
        order = memory_order(32).to(quants.device)
        return quants.view(rows, -1, 32)[..., order].contiguous().view(torch.int32), planes["scale"]
    if name == "Q6_K":
        quants = (_six_bits(planes) - 32) & 63
        low, upper = _pack_nibbles(quants & 15), (quants >> 4).view(rows, -1, 4, 2, 4).long()  # [.., word, half, j]
        shifts = torch.arange(4, device=raw.device)[:, None, None] * 2 + (
            torch.arange(2, device=raw.device)[:, None] * 32 + torch.arange(4, device=raw.device) * 8
        )
        high = (upper << shifts).sum((2, 3, 4))
        subscale = planes["subscale"].contiguous().view(torch.int16).view(rows, -1)
        return low, high, subscale, planes["scale"]
    raise ValueError(f"weight format {name} has no GPU layout")


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """ggml's int32 [rows, blocks, 4] -> uint8 [rows, blocks, 32]: byte j holds elements j and j + 16."""
    packed = words.contiguous().view(torch.uint8)
    return torch.cat([packed & 15, packed >> 4], -1)


def _pack_nibbles(quants: torch.Tensor) -> torch.Tensor:
    """uint8 0..15 [rows, ...] -> int32 [rows, runs, 4] in this file's order."""
    rows = len(quants)
    by_half = quants.reshape(rows, -1, 4, 2, 4)  # [run, word, half, j]
    return (by_half[..., 0, :] | (by_half[..., 1, :] << 4)).to(torch.uint8).contiguous().view(torch.int32).squeeze(-1)


def _six_bits(planes: dict[str, torch.Tensor]) -> torch.Tensor:
    """Q6_K's quants as int16 0..63 [rows, cols], columns in order."""
    rows = len(planes["low"])
    low = planes["low"].contiguous().view(torch.uint8).view(rows, -1, 2, 2, 32)
    high = planes["high"].contiguous().view(torch.uint8).view(rows, -1, 2, 1, 32)
    runs = torch.cat([low & 15, low >> 4], 3)  # four runs of 32 a half
    upper = torch.cat([(high >> 2 * run) & 3 for run in range(4)], 3)
    return (runs | (upper << 4)).to(torch.int16).reshape(rows, -1)


def unpack(planes: Planes) -> torch.Tensor:
    """float32 [rows, cols], exactly what the format's `dequantize` gives: proof that packing loses nothing."""
    t, rows, name = planes.tensors, planes.rows, planes.format
    if name in _FLOATS:
        if name == "F32":
            return t[0].view(torch.float32)
        eights = t[0].view(torch.int16).view(rows, -1, 4, 2).transpose(2, 3)
        return eights.contiguous().view(_FLOATS[name]).view(rows, -1).float()
    if name == "Q8_0":
        quants = torch.empty(rows, planes.cols // 32, 32, device=t[0].device)
        quants[..., memory_order(32).to(t[0].device)] = t[0].view(torch.int8).view(rows, -1, 32).float()
        return (quants * t[1].float()[..., None]).reshape(rows, -1)
    words = t[0].contiguous().view(torch.uint8).view(rows, -1, 4, 4)
    quants = torch.stack([words & 15, words >> 4], 3).to(torch.int16)  # [run, word, half, j]
    if name == "Q4_0":
        return ((((quants ^ 8) - 8).reshape(rows, -1, 32)) * t[1].float()[..., None]).reshape(rows, -1)
    if name == "Q4_1":
        scaled = quants.reshape(rows, -1, 32) * t[1].float()[..., None]
        return (scaled + t[2].float()[..., None]).reshape(rows, -1)
    upper = torch.stack(
        [(t[1] >> (2 * w)).contiguous().view(torch.uint8).view(rows, -1, 2, 4) & 3 for w in range(4)], 2
    )
    six = (quants | (upper.to(torch.int16) << 4)).reshape(rows, -1, 16)
    subscale = t[2].contiguous().view(torch.int8).view(rows, -1).float()
    scale = t[3].float().repeat_interleave(16, 1) * subscale
    return (((six ^ 32) - 32).float() * scale[..., None]).reshape(rows, -1)
