"""A quant format: its name and number, its layout, and how weights become its blocks.

A format knows how one row of a weight matrix is stored. It does not know files, kernels or models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernel_templates.formats import codec
from kernel_templates.formats.codec import Fields, as_bytes, reinterpret
from kernel_templates.formats.layout import Blocks, Floats, Layout

# Where the tolerance of the block formats comes from. Their kernels round activations to int8 in blocks of 32, scale =
# max|x| / 127. A rounding error is uniform in ± half a step, so its RMS is max|x| / (127 · √12) = 0.00227 · max|x|. A
# block of normal values has max|x| near 2.4 standard deviations: relative error 0.0054. The worst a block can be is one
# value that dwarfs the other 31, max|x| = √32 RMS: 0.0129. Scales in float16 and sums in float32 add less than 0.0005.
# The limit lies just above the worst; one lost block among 128 gives 0.09, a field read wrongly more.
INT8_ACTIVATION_TOLERANCE = 1.5e-2


@dataclass(frozen=True)
class Format:
    """One way to store weights, bit for bit as ggml stores them, read and written in torch on any device.

    No function changes its input; where nothing has to move, a result may alias it.
    """

    name: str
    ggml_type: int
    """The format's number in a GGUF file (`enum ggml_type`)."""
    layout: Layout
    quantizer: Callable[[Tensor, Blocks], Fields] | None = None
    """float32 [..., size] → what a block stores; None for floats, which are rounded to nearest, ties to even."""
    tolerance: float = INT8_ACTIVATION_TOLERANCE
    """The relative error ‖out - ref‖ / ‖ref‖ allowed to a kernel, where ref is a float64 product over the same
    quantized weights and the unquantized activations. No unit."""

    @property
    def block(self) -> int:
        """Elements in a block; 1 for the float formats."""
        return self.layout.size

    @property
    def block_bytes(self) -> int:
        return self.layout.nbytes

    @property
    def quantized(self) -> bool:
        """Whether weights are integers with scales, multiplied with quantized activations."""
        return isinstance(self.layout, Blocks)

    def row_bytes(self, cols: int) -> int:
        """Bytes that a row of `cols` elements takes. ValueError if `cols` is not a whole number of blocks."""
        if cols % self.block:
            raise ValueError(f"{self.name} stores blocks of {self.block}: a row of {cols} elements does not divide")
        return cols // self.block * self.block_bytes

    def quantize(self, x: Tensor) -> Tensor:
        """float32 [..., n] → uint8 [..., n // block * block_bytes], as ggml does it without an importance matrix.

        ValueError for a value that is not finite, another dtype, or an n that is not whole blocks. A finite value
        beyond the range of a float format becomes infinity, as it does in ggml.
        """
        if x.dtype != torch.float32:
            raise ValueError(f"{self.name} quantizes float32, not {x.dtype}")
        if x.dim() == 0 or x.shape[-1] % self.block:
            raise ValueError(
                f"{self.name} quantizes blocks of {self.block}: a tensor of shape {tuple(x.shape)} does not divide"
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"{self.name} cannot quantize a tensor that holds infinity or NaN")
        if isinstance(self.layout, Floats):
            return as_bytes(x.to(self.layout.dtype))
        if self.quantizer is None:
            raise ValueError(f"{self.name} has no quantizer")
        blocks = x.unflatten(-1, (x.shape[-1] // self.block, self.block))
        return codec.write(self.quantizer(blocks, self.layout), self.layout).flatten(-2)

    def dequantize(self, data: Tensor) -> Tensor:
        """uint8 [..., bytes] → float32 [..., n]. ValueError for bytes that are not whole blocks."""
        blocks = self.blocks(data)
        if isinstance(self.layout, Floats):
            return reinterpret(blocks.flatten(-2), self.layout.dtype).float()
        return codec.weights(codec.read(blocks, self.layout), self.layout).flatten(-2)

    def blocks(self, data: Tensor) -> Tensor:
        """uint8 [..., bytes] → [..., blocks, block_bytes]. ValueError unless data is uint8 in whole blocks."""
        if data.dtype != torch.uint8:
            raise ValueError(f"{self.name} reads uint8, not {data.dtype}")
        if data.dim() == 0 or data.shape[-1] % self.block_bytes:
            raise ValueError(
                f"{self.name} reads blocks of {self.block_bytes} bytes: "
                f"a tensor of shape {tuple(data.shape)} does not divide"
            )
        return data.unflatten(-1, (data.shape[-1] // self.block_bytes, self.block_bytes))
