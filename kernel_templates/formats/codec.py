"""Blocks read and written in torch, as their layout says; bit for bit what ggml's C code does."""

from dataclasses import dataclass

from kernel_templates.formats.layout import Bits, Blocks, Codes, Places
from kernel_templates.lazy import Tensor, torch


@dataclass(frozen=True)
class Fields:
    """What blocks store: quants uint8 [..., size] and subscales, subminimums uint8 [..., groups] as codes; scale and
    minimum float16 [...], a scale that is an exponent uint8 [...]. Writing rounds a float32 scale or minimum."""

    quants: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    subscales: Tensor | None = None
    subminimums: Tensor | None = None


def read(data: Tensor, layout: Blocks) -> Fields:
    """uint8 [..., bytes of a block] → its fields."""
    scale, minimum = read_scales(data, layout)
    subscales, subminimums = (
        None if codes is None else read_codes(data, codes, layout.groups)
        for codes in (layout.subscales, layout.subminimums)
    )
    return Fields(read_codes(data, layout.quants, layout.size), scale, minimum, subscales, subminimums)


def read_scales(data: Tensor, layout: Blocks) -> tuple[Tensor, Tensor | None]:
    """uint8 [..., bytes of a block] → scale and, if there is one, minimum [...], as stored."""

    def half(at: int) -> Tensor:
        return reinterpret(data[..., at : at + 2], torch.float16).squeeze(-1)

    scale = data[..., layout.scale] if layout.exponent else half(layout.scale)
    return scale, None if layout.minimum is None else half(layout.minimum)


def write(fields: Fields, layout: Blocks) -> Tensor:
    """Fields → uint8 [..., bytes of a block]; the inverse of `read`."""
    out = fields.quants.new_zeros((*fields.quants.shape[:-1], layout.nbytes))
    _write_codes(out, fields.quants, layout.quants)
    if layout.subscales is not None and fields.subscales is not None:
        _write_codes(out, fields.subscales, layout.subscales)
    if layout.subminimums is not None and fields.subminimums is not None:
        _write_codes(out, fields.subminimums, layout.subminimums)
    scale = fields.scale if layout.exponent else fields.scale.to(torch.float16)
    out[..., layout.scale : layout.scale + scale.itemsize] = as_bytes(scale.unsqueeze(-1))
    if layout.minimum is not None and fields.minimum is not None:
        minimum = fields.minimum.to(torch.float16)
        out[..., layout.minimum : layout.minimum + 2] = as_bytes(minimum.unsqueeze(-1))
    return out


def weights(fields: Fields, layout: Blocks) -> Tensor:
    """Fields → float32 [..., size], every step rounded as in ggml: a scale first takes its subscale."""
    scale = (exponent_scale(fields.scale) if layout.exponent else fields.scale.float()).unsqueeze(-1)
    minimum = None if fields.minimum is None else fields.minimum.float().unsqueeze(-1)
    if layout.subscales is not None and fields.subscales is not None:
        scale = scale * meaning(fields.subscales, layout.subscales)
    if layout.subminimums is not None and fields.subminimums is not None and minimum is not None:
        minimum = -(minimum * meaning(fields.subminimums, layout.subminimums))
    out = meaning(fields.quants, layout.quants).unflatten(-1, (scale.shape[-1], -1))
    out.mul_(scale.unsqueeze(-1))
    if minimum is not None:
        out.add_(minimum.unsqueeze(-1))
    return out.flatten(-2)


def meaning(codes: Tensor, kind: Codes) -> Tensor:
    """uint8 of codes → float32: the numbers they stand for."""
    if kind.codebook is not None:
        return torch.tensor(kind.codebook, dtype=torch.float32, device=codes.device)[codes.int()]
    if kind.signed:
        return codes.view(torch.int8).float()
    return codes.float().sub_(kind.zero) if kind.zero else codes.float()


def exponent_scale(exponent: Tensor) -> Tensor:
    """E8M0 halved, uint8 e → float32 2^(e - 128), subnormal for e < 2."""
    e = exponent.to(torch.int32)
    return torch.where(e < 2, 0x00200000 << e.clamp_max(1), (e - 1) << 23).view(torch.float32)


def read_codes(data: Tensor, codes: Codes, count: int) -> Tensor:
    """uint8 [..., bytes] → uint8 [..., count]: codes in order."""
    low = read_bits(data, codes.low, count)
    return low if codes.high is None else low | (read_bits(data, codes.high, count) << codes.low.width)


def read_bits(data: Tensor, bits: Bits | Places, count: int) -> Tensor:
    """uint8 [..., bytes] → uint8 [..., count]: these bits of every code."""
    mask = (1 << bits.width) - 1
    if isinstance(bits, Places):
        at, shift = torch.tensor(bits.each, device=data.device).T
        return (data[..., at] >> shift.to(torch.uint8)) & mask
    held = data[..., bits.at : bits.at + count * bits.width // 8]
    if bits.width == 8:
        return held
    shifts = torch.arange(0, 8, bits.width, dtype=torch.uint8, device=data.device)[:, None]
    return ((held.unflatten(-1, (-1, 1, bits.run)) >> shifts) & mask).flatten(-3)


def _write_codes(out: Tensor, values: Tensor, codes: Codes) -> None:
    _write_bits(out, values & ((1 << codes.low.width) - 1), codes.low)
    if codes.high is not None:
        _write_bits(out, values >> codes.low.width, codes.high)


def _write_bits(out: Tensor, values: Tensor, bits: Bits | Places) -> None:
    if isinstance(bits, Places):
        for value, (at, shift) in zip(values.unbind(-1), bits.each, strict=True):
            out[..., at] |= value << shift
    else:
        packed = pack_bits(values, bits)
        out[..., bits.at : bits.at + packed.shape[-1]] |= packed


def pack_bits(values: Tensor, bits: Bits) -> Tensor:
    """uint8 [..., count] → uint8 [..., count * width / 8], as `bits` says; its `at` does not count."""
    chunks = values.unflatten(-1, (-1, 8 // bits.width, bits.run))
    out = chunks[..., 0, :]
    for part in range(1, 8 // bits.width):
        out = out | (chunks[..., part, :] << part * bits.width)
    return out.flatten(-2)


def reinterpret(data: Tensor, dtype: "torch.dtype") -> Tensor:
    """The same bytes as another dtype, [..., n] → [..., n * old itemsize // new itemsize]; aliases `data` if its layout
    allows."""
    flat = data.contiguous().reshape(-1)  # one element may have any stride, which a change of dtype refuses
    if flat.storage_offset() * flat.itemsize % dtype.itemsize:
        flat = flat.clone()  # a field of a lone block is contiguous and still not aligned to its words
    return flat.view(dtype).view(*data.shape[:-1], data.shape[-1] * data.itemsize // dtype.itemsize)


def as_bytes(data: Tensor) -> Tensor:
    """[..., n] of any dtype → uint8 [..., n * itemsize]; aliases `data` if it is contiguous."""
    return reinterpret(data, torch.uint8)
