"""Gemma 2 (https://arxiv.org/abs/2408.00118): norms before and after, GELU, soft caps, every other layer with a window.

GGUF stores norm weights with the 1 that the model adds to them, and RoPE of the halves. What the file leaves out is as
llama.cpp's src/models/gemma2.cpp has it: the first layer is local, the 27B model divides scores by sqrt(144).
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture(
    "gemma2", rope="halves", gate_function="gelu", post_norm=True, scaled_embedding=True,
    window_period=2, window=4096, softcaps=(50.0, 30.0), wide_scale_layers=(46,),
)  # fmt: skip
