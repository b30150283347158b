"""What a quant format is: its numbers, and the four functions that read and write it.

A format knows how one row of a weight matrix is stored. It does not know files, kernels or models.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Format:
    """One way to store weights, bit for bit as ggml stores them. Everything here runs in torch on the CPU.

    No function changes its input; where nothing has to move, a result may alias it.

    `quantize`: float32 [..., n] → uint8 [..., n // block * block_bytes]. ValueError for a value that is not finite,
    another dtype, or an n that is not whole blocks.

    `dequantize`: uint8 [..., bytes] → float32 [..., n]. ValueError for bytes that are not whole blocks.

    `to_planes`: uint8 [rows, bytes] → one tensor a field, each contiguous along a row, so that a kernel can load
    aligned words. Lossless for arbitrary bytes.

    `from_planes`: the exact inverse, → uint8 [rows, bytes].

    `tolerance`: the relative error ‖out - ref‖ / ‖ref‖ allowed to a kernel, where ref is a float64 product over the
    same quantized weights and the unquantized activations. No unit.
    """

    name: str
    ggml_type: int
    """The format's number in a GGUF file (`enum ggml_type`)."""
    block: int
    """Elements in a block; 1 for the float formats."""
    block_bytes: int
    quantize: Callable[[Tensor], Tensor]
    dequantize: Callable[[Tensor], Tensor]
    to_planes: Callable[[Tensor], dict[str, Tensor]]
    from_planes: Callable[[dict[str, Tensor]], Tensor]
    tolerance: float

    def row_bytes(self, cols: int) -> int:
        """Bytes that a row of `cols` elements takes. ValueError if `cols` is not a whole number of blocks."""
        if cols % self.block:
            raise ValueError(f"{self.name} stores blocks of {self.block}: a row of {cols} elements does not divide")
        return cols // self.block * self.block_bytes


# Where the tolerance of the block formats comes from. Their kernels round activations to int8 in blocks of 32, scale =
# max|x| / 127. A rounding error is uniform in ± half a step, so its RMS is max|x| / (127 · √12) = 0.00227 · max|x|. A
# block of normal values has max|x| near 2.4 standard deviations: relative error 0.0054. The worst a block can be is one
# value that dwarfs the other 31, max|x| = √32 RMS: 0.0129. Scales in float16 and sums in float32 add less than 0.0005.
# The limit lies just above the worst; one lost block among 128 gives 0.09, a field read wrongly more.
INT8_ACTIVATION_TOLERANCE = 1.5e-2
