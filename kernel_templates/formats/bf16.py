"""BF16: the upper 2 bytes of a float32 (little-endian) a weight. weight = the same bits above 16 zero bits, exactly."""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Floats

# Kernels may round activations to bfloat16: at most 2^-8 / 2 relative each, 2^-9 / √3 = 0.0011 RMS, with float32 sums.
# Three times that, rounded up; a sum kept in bfloat16 does not pass.
FORMAT = Format("BF16", ggml_type=30, layout=Floats("bf16"), tolerance=4e-3)
