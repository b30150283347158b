"""F16: one IEEE half (2 bytes, little-endian) a weight. weight = the half, exactly."""

import torch

from kernel_templates.formats.dense import dense_format

# Kernels may round activations to float16: at most 2^-11 relative each, 2^-11 / √3 = 0.0003 RMS, with float32 sums.
# Three times that; a sum kept in float16 does not pass.
FORMAT = dense_format("F16", ggml_type=1, dtype=torch.float16, tolerance=1e-3)
