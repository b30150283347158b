"""BF16: the upper 2 bytes of a float32 (little-endian) a weight. weight = the same bits above 16 zero bits, exactly."""

import torch

from kernel_templates.formats.dense import dense_format

# Kernels may round activations to bfloat16: at most 2^-8 / 2 relative each, 2^-9 / √3 = 0.0011 RMS, with float32 sums.
# Three times that, rounded up; a sum kept in bfloat16 does not pass.
FORMAT = dense_format("BF16", ggml_type=30, dtype=torch.bfloat16, tolerance=4e-3)
