"""What F16, BF16 and F32 share: no blocks, no scales, every weight a number of its own."""

import torch
from torch import Tensor

from kernel_templates.formats.base import Format
from kernel_templates.formats.blocks import as_bytes, byte_blocks, float_blocks, reinterpret


def dense_format(name: str, ggml_type: int, dtype: torch.dtype, tolerance: float) -> Format:
    """The Format that stores each weight as one little-endian `dtype`, rounded to nearest, ties to even.

    Its only plane is `values`, `dtype` [rows, cols]. A finite float32 beyond the dtype's range becomes infinity, as
    it does in ggml.
    """

    def quantize(x: Tensor) -> Tensor:
        return as_bytes(float_blocks(x, name, 1).flatten(-2).to(dtype))

    def values(data: Tensor) -> Tensor:
        return reinterpret(byte_blocks(data, name, dtype.itemsize).flatten(-2), dtype)

    def dequantize(data: Tensor) -> Tensor:
        return values(data).float()

    def to_planes(data: Tensor) -> dict[str, Tensor]:
        return {"values": values(data)}

    def from_planes(planes: dict[str, Tensor]) -> Tensor:
        return as_bytes(planes["values"])

    return Format(
        name=name,
        ggml_type=ggml_type,
        block=1,
        block_bytes=dtype.itemsize,
        quantize=quantize,
        dequantize=dequantize,
        to_planes=to_planes,
        from_planes=from_planes,
        tolerances=dict.fromkeys(("int8", "int16"), tolerance),  # activations are not made integers for these
    )
