"""Cutting rows into blocks, reading a field out of them, and the rounding that the formats share."""

import torch
from torch import Tensor


def float_blocks(x: Tensor, name: str, block: int) -> Tensor:
    """float32 [..., n] → [..., n // block, block]. ValueError unless x is finite float32 in whole blocks."""
    if x.dtype != torch.float32:
        raise ValueError(f"{name} quantizes float32, not {x.dtype}")
    if x.dim() == 0 or x.shape[-1] % block:
        raise ValueError(f"{name} quantizes blocks of {block}: a tensor of shape {tuple(x.shape)} does not divide")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} cannot quantize a tensor that holds infinity or NaN")
    return x.unflatten(-1, (x.shape[-1] // block, block))


def byte_blocks(data: Tensor, name: str, block_bytes: int) -> Tensor:
    """uint8 [..., bytes] → [..., blocks, block_bytes]. ValueError unless data is uint8 in whole blocks."""
    if data.dtype != torch.uint8:
        raise ValueError(f"{name} reads uint8, not {data.dtype}")
    if data.dim() == 0 or data.shape[-1] % block_bytes:
        raise ValueError(
            f"{name} reads blocks of {block_bytes} bytes: a tensor of shape {tuple(data.shape)} does not divide"
        )
    return data.unflatten(-1, (data.shape[-1] // block_bytes, block_bytes))


def join(fields: list[Tensor]) -> Tensor:
    """Fields [..., blocks, anything], in the order of the block's layout → uint8 [..., blocks * block_bytes]."""
    return torch.cat([as_bytes(field) for field in fields], dim=-1).flatten(-2)


def field(blocks: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Bytes start to stop of every block [..., block_bytes], read as `dtype` [..., (stop - start) // itemsize]."""
    return reinterpret(blocks[..., start:stop], dtype)


def reinterpret(data: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bytes as another dtype, [..., n] → [..., n * old itemsize // new itemsize]; aliases `data` if its layout
    allows."""
    flat = data.reshape(-1)  # a dimension of one element may have any stride, which a change of dtype refuses
    if flat.storage_offset() * flat.itemsize % dtype.itemsize:
        flat = flat.clone()  # a field of a lone block is contiguous and still not aligned to its words
    return flat.view(dtype).view(*data.shape[:-1], data.shape[-1] * data.itemsize // dtype.itemsize)


def as_bytes(data: Tensor) -> Tensor:
    """[..., n] of any dtype → uint8 [..., n * itemsize]; aliases `data` if it is contiguous."""
    return reinterpret(data, torch.uint8)


def inverse_or_zero(scale: Tensor) -> Tensor:
    """1 / scale in float32, and 0 where the scale is 0."""
    return torch.where(scale == 0, 0.0, scale.reciprocal())


def to_small_int(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x cut to an 8-bit integer; 0 where x is not finite.

    A block whose scale is so small that 1 / scale overflows has quants of infinity · x. C leaves the conversion
    undefined; ggml built for x86-64 gets 0, the low byte of the processor's "no integer" answer, and so do we. (Such
    a scale is also 0 in float16, so that no bit of the quants reaches the weights.)
    """
    return torch.where(torch.isfinite(x), x, 0.0).to(dtype)


def round_half_away(x: Tensor) -> Tensor:
    """C's roundf: halves go away from zero. Adding 0.5 first would round 0.49999997 up."""
    whole = x.trunc()
    return whole + (2 * (x - whole)).trunc()


def pack_nibbles(quants: Tensor) -> Tensor:
    """uint8 [..., 32] of 0..15 → uint8 [..., 16]; byte j holds element j below and element j + 16 above."""
    return quants[..., :16] | (quants[..., 16:] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., 16] → float32 [..., 32], the inverse of `pack_nibbles`."""
    out = torch.empty((*packed.shape[:-1], 2, 16), dtype=torch.float32)
    out[..., 0, :] = packed & 15
    out[..., 1, :] = packed >> 4
    return out.flatten(-2)
