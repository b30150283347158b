"""A quant format: its name and number, its layout, and how weights become its blocks.

A format knows how one row of a weight matrix is stored. It does not know files, kernels or models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kernel_templates.formats import codec
from kernel_templates.formats.codec import Fields, as_bytes, reinterpret
from kernel_templates.formats.layout import Blocks, Floats, Layout
from kernel_templates.lazy import Tensor, torch

# Where the tolerances of the block formats come from. Their kernels round activations to integers in blocks of 32 (on
# a GPU of 8), scale = max|x| / L: L = 127 for int8; for int16 127 * 128 = 16256 on the CPU and 32767 on a GPU, of which
# the coarser counts. A rounding error is uniform in ± half a step, so its RMS is max|x| / (L · √12):
#
#                                                      int8      int16
#   a block of normal values, max|x| = 2.4 RMS       0.0055    0.000043
#   the worst block, one value that dwarfs the
#   other 31, max|x| = √32 RMS                       0.0129    0.000101
#
# Weights are read as they are stored, their float16 scales included: the reference has the same. Sums of integers are
# exact within a block; its result and its scale are float32, 2^-24 each, and n of them added one after the other differ
# by about 2^-24 √n of the sum's RMS (Higham, "Accuracy and Stability of Numerical Algorithms", 4.2): 0.000002 for 1,024
# blocks, 0.00001 for the longest chains of single products. Scales that a kernel keeps in float16 would add 2^-11 / √3
# = 0.0003: with int8 they pass, with int16 they do not, nor does a kernel of int16 that loses the low plane.
#
# Each limit lies just above the worst. What a mistake makes: one lost column among 4,096 gives 0.0156, one lost block
# among 128 gives 0.09, one row that is wrong in 4,096 gives 0.0156 and more, a field read wrongly more than any.
INT8_ACTIVATION_TOLERANCE = 1.5e-2
INT16_ACTIVATION_TOLERANCE = 1.2e-4
FLOAT32_TOLERANCE = 4e-5
"""Of sums of float32 products, in whatever order."""
BLOCK_TOLERANCES = {"int8": INT8_ACTIVATION_TOLERANCE, "int16": INT16_ACTIVATION_TOLERANCE}


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
    tolerance: float | None = None
    """Of a format whose weights are floats, as of `tolerances`, whatever the activations are."""

    @property
    def tolerances(self) -> Mapping[str, float]:
        """By the kind of activations ("int8", "int16"), the relative error ‖out - ref‖ / ‖ref‖ allowed to a kernel,
        where ref is a float64 product over the same quantized weights and the unquantized activations. No unit."""
        return BLOCK_TOLERANCES if self.tolerance is None else dict.fromkeys(BLOCK_TOLERANCES, self.tolerance)

    @property
    def cpu_tolerances(self) -> Mapping[str, float]:
        """The same of kernels for the CPU, which round no activations where weights are floats."""
        return self.tolerances if self.quantized else dict.fromkeys(BLOCK_TOLERANCES, FLOAT32_TOLERANCE)

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
