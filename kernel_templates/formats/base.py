"""What a quant format is: its numbers, and the four functions that read and write it.

A format knows how one row of a weight matrix is stored. It does not know files, kernels or models.
"""

from collections.abc import Callable, Mapping
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

    `tolerances`: by the kind of activations ("int8", "int16"), the relative error ‖out - ref‖ / ‖ref‖ allowed to a
    kernel, where ref is a float64 product over the same quantized weights and the unquantized activations. No unit.
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
    tolerances: Mapping[str, float]

    def row_bytes(self, cols: int) -> int:
        """Bytes that a row of `cols` elements takes. ValueError if `cols` is not a whole number of blocks."""
        if cols % self.block:
            raise ValueError(f"{self.name} stores blocks of {self.block}: a row of {cols} elements does not divide")
        return cols // self.block * self.block_bytes


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
BLOCK_TOLERANCES = {"int8": INT8_ACTIVATION_TOLERANCE, "int16": INT16_ACTIVATION_TOLERANCE}
