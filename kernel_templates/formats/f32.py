"""F32: one IEEE single (4 bytes, little-endian) a weight. weight = the single, exactly."""

from kernel_templates.formats.base import FLOAT32_TOLERANCE, Format
from kernel_templates.formats.layout import Floats

# Activations stay float32, so only the sum rounds: added one after another, K random products err by about
# 2^-24 · √(K / 6), 3e-6 at K = 12288. Products in TF32 err by 4e-4; the limit lies between, ten times from either.
FORMAT = Format("F32", ggml_type=0, layout=Floats("f32"), tolerance=FLOAT32_TOLERANCE)
