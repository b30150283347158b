"""Weights as GPU kernels read them: the file's quants and scales in separate planes (see `traits`), 16 bytes a load,
nothing lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from kernel_templates import formats
from kernel_templates.cuda import traits
from kernel_templates.cuda.traits import Traits
from kernel_templates.cuda.vector import byte_places
from kernel_templates.formats import codec
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Blocks, Codes, Floats
from kernel_templates.operation import Weight

_CHUNK_ROWS = 1 << 14  # a head is packed in parts, so that its bytes are not there five times over


@dataclass(frozen=True)
class Planes:
    """One packed matrix on a device; several matrices of one format may lie in one, row after row."""

    format: str
    rows: int
    cols: int
    tensors: tuple[torch.Tensor, ...]

    @property
    def traits(self) -> Traits:
        return traits.of_format(self.format)

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
    if torch.device(device).type == "meta":
        return _shapes(first, sum(w.rows for w in weights))
    parts = [_pack(some.to(device), first.format) for w in weights for some in w.raw.split(_CHUNK_ROWS)]
    tensors = tuple(planes[0] if len(planes) == 1 else torch.cat(planes) for planes in zip(*parts, strict=True))
    return Planes(first.format, sum(w.rows for w in weights), first.cols, tuple(t.contiguous() for t in tensors))


def _shapes(weight: Weight, rows: int) -> Planes:
    """Planes without values, by those of one row. For shapes alone torch does most operations in Python, and imports
    its compiler and sympy for them: three seconds."""
    row = _pack(torch.zeros((1, weight.raw.shape[1]), dtype=torch.uint8), weight.format)
    planes = (torch.empty((rows, *t.shape[1:]), dtype=t.dtype, device="meta") for t in row)
    return Planes(weight.format, rows, weight.cols, tuple(planes))


def split(planes: Planes, sizes: Sequence[int]) -> tuple[Planes, ...]:
    """Matrices of so many rows each, one below the other, in the same memory."""
    parts = zip(*(t.split(list(sizes)) for t in planes.tensors), strict=True)
    return tuple(Planes(planes.format, n, planes.cols, part) for n, part in zip(sizes, parts, strict=True))


def joined(parts: Sequence[Planes]) -> Planes | None:
    """Matrices as one, in the same memory; None unless they lie there one below the other, in one format."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any((p.format, p.cols) != (first.format, first.cols) for p in parts):
        return None
    for above, below in pairwise(parts):
        for a, b in zip(above.tensors, below.tensors, strict=True):
            alone = a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
            if alone or a.storage_offset() + a.numel() != b.storage_offset():
                return None
    rows = sum(p.rows for p in parts)
    whole = (t.as_strided((rows, *t.shape[1:]), t.stride()) for t in first.tensors)
    return Planes(first.format, rows, first.cols, tuple(whole))


def _pack(raw: torch.Tensor, name: str) -> list[torch.Tensor]:
    fmt, rows = formats.get(name), len(raw)
    if isinstance(fmt.layout, Floats):
        words = raw.view(torch.int32)
        if fmt.layout.nbytes == 2:
            words = raw.view(torch.int16).view(rows, -1, 2, 4).transpose(2, 3).contiguous().view(torch.int32)
        return [words.view(rows, -1)]
    fields = codec.read(fmt.blocks(raw), fmt.layout)
    return _pack_quants(fields.quants.reshape(rows, -1), fmt.layout) + _pack_scales(fields, fmt.layout)


def _pack_quants(quants: torch.Tensor, layout: Blocks) -> list[torch.Tensor]:
    """uint8 [rows, cols], the file's codes -> the planes of their bits."""
    rows, bits = len(quants), layout.quants.bits
    if bits == 8:
        packed = torch.empty_like(quants)
        packed[:, _byte_places(quants)] = quants
        return [packed.view(rows, -1, 32).view(torch.int32)]
    if layout.quants.zero:
        quants = quants ^ layout.quants.zero  # less the zero, in two's complement
    by_half = quants.view(rows, -1, 4, 2, 4)  # [run, word, half, j]
    planes = []
    if bits & 4:
        nibbles = by_half & 15
        if layout.quants.codebook is None:
            packed = nibbles[..., 0, :] | (nibbles[..., 1, :] << 4)
        else:
            packed = nibbles.flatten(-2)[..., ::2] | (nibbles.flatten(-2)[..., 1::2] << 4)
        planes.append(packed.contiguous().view(torch.int32).squeeze(-1))
    if bits & 2:
        pairs = (by_half >> (bits & 4)) & 3
        packed = pairs[:, :, 0] | (pairs[:, :, 1] << 2) | (pairs[:, :, 2] << 4) | (pairs[:, :, 3] << 6)
        planes.append(packed.flatten(-2).contiguous().view(torch.int64).squeeze(-1))
    if bits & 1:
        ones = by_half >> (bits - 1)
        packed = torch.zeros_like(ones[:, :, 0, 0])
        for word in range(4):
            packed = packed | (ones[:, :, word, 0] << word) | (ones[:, :, word, 1] << (word + 4))
        planes.append(packed.contiguous().view(torch.int32).squeeze(-1))
    return planes


def _pack_scales(fields: Fields, layout: Blocks) -> list[torch.Tensor]:
    """The planes after those of the quants."""
    if fields.subscales is None:
        return [fields.scale] if fields.minimum is None else [fields.scale, fields.minimum]
    rows, each = len(fields.scale), 32 // layout.group
    codes = [
        codec.meaning(some, kind).to(torch.int8).view(rows, -1, each)
        for some, kind in ((fields.subscales, layout.subscales), (fields.subminimums, layout.subminimums))
        if some is not None and kind is not None
    ]
    word = {1: torch.int8, 2: torch.int16, 4: torch.int32}[each * len(codes)]
    scale = fields.scale
    if fields.minimum is not None:
        scale = torch.stack((scale, fields.minimum), -1).view(torch.int32).squeeze(-1)
    return [torch.cat(codes, -1).view(word).squeeze(-1), scale]


def unpack(planes: Planes) -> torch.Tensor:
    """float32 [rows, cols], exactly what the format's `dequantize` gives: proof that packing loses nothing."""
    layout, rows = formats.get(planes.format).layout, planes.rows
    if isinstance(layout, Floats):
        words = planes.tensors[0]
        if layout.nbytes == 2:
            words = words.view(torch.int16).view(rows, -1, 4, 2).transpose(2, 3).contiguous()
        return words.view(layout.dtype).view(rows, -1).float()
    tensors = dict(zip(planes.traits.planes, planes.tensors, strict=True))
    quants = _unpack_quants(tensors, rows, layout).view(rows, -1, layout.size)
    return codec.weights(_unpack_scales(tensors, quants, layout), layout).view(rows, -1)


def _unpack_quants(tensors: Mapping[str, torch.Tensor], rows: int, layout: Blocks) -> torch.Tensor:
    """The file's codes, uint8, columns in order."""
    bits = layout.quants.bits
    if bits == 8:
        packed = tensors["quants"].view(torch.uint8).view(rows, -1)
        return packed[:, _byte_places(packed)]
    quants = torch.zeros((), dtype=torch.uint8, device=tensors["scale"].device)
    if bits & 4:
        words = tensors["quants"].contiguous().view(torch.uint8).view(rows, -1, 4, 4)
        apart = 3 if layout.quants.codebook is None else 4  # nibbles of a byte: halves of eight columns, or neighbours
        quants = torch.stack((words & 15, words >> 4), apart).view(rows, -1, 4, 2, 4)  # [run, word, half, j]
    if bits & 2:
        packed = tensors["pairs"].contiguous().view(torch.uint8).view(rows, -1, 1, 2, 4)
        quants = quants | ((packed >> _by_word(2, packed)) & 3) << (bits & 4)
    if bits & 1:
        packed = tensors["ones"].contiguous().view(torch.uint8).view(rows, -1, 1, 1, 4)
        halves = torch.arange(0, 8, 4, dtype=torch.uint8, device=packed.device)[:, None]
        quants = quants | ((packed >> (_by_word(1, packed) + halves)) & 1) << (bits - 1)
    return quants ^ layout.quants.zero


def _byte_places(quants: torch.Tensor) -> torch.Tensor:
    """Where the columns of uint8 [rows, cols] lie in a row of bytes."""
    cols = quants.shape[1]
    return byte_places(cols, traits.line_runs(cols)).to(quants.device)


def _by_word(width: int, like: torch.Tensor) -> torch.Tensor:
    """Shifts of the four words of a run, [word, half, j]."""
    return torch.arange(0, 4 * width, width, dtype=torch.uint8, device=like.device)[:, None, None]


def _unpack_scales(tensors: Mapping[str, torch.Tensor], quants: torch.Tensor, layout: Blocks) -> Fields:
    """The fields of blocks with these quants."""
    scale, minimum = tensors["scale"], tensors.get("minimum")
    if layout.subscales is None:
        return Fields(quants, scale, minimum)
    rows, runs = len(scale), quants[0].numel() // 32
    numbers = tensors["codes"].contiguous().view(torch.uint8).view(rows, runs, -1)

    def codes(numbers: torch.Tensor, kind: Codes) -> torch.Tensor:
        return (numbers + kind.zero).reshape(*quants.shape[:2], -1)

    each = 32 // layout.group
    subscales = codes(numbers[..., :each], layout.subscales)
    if layout.subminimums is None:
        return Fields(quants, scale, subscales=subscales)
    scale, minimum = scale.contiguous().view(torch.float16).view(*quants.shape[:2], 2).unbind(-1)
    return Fields(quants, scale, minimum, subscales, codes(numbers[..., each:], layout.subminimums))
