"""F16: one IEEE half (2 bytes, little-endian) a weight. weight = the half, exactly."""

from kernel_templates.formats.base import Format
from kernel_templates.formats.layout import Floats

# Kernels may round activations to float16: at most 2^-11 relative each, 2^-11 / √3 = 0.0003 RMS, with float32 sums.
# Three times that; a sum kept in float16 does not pass.
FORMAT = Format("F16", ggml_type=1, layout=Floats("f16"), tolerance=1e-3)
