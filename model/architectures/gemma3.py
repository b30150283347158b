"""Gemma 3, its text (https://arxiv.org/abs/2503.19786): Gemma 2 with norms of queries and keys in place of soft caps.

Five local layers are followed by a global one. Local layers turn by base 10000 without scaling, the global ones by the
file's base and scaling. What the file leaves out is as llama.cpp's src/models/gemma3.cpp has it.
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture(
    "gemma3", rope="halves", qk_norm=True, gate_function="gelu", post_norm=True, scaled_embedding=True,
    window_period=6, local_rope_base=10000.0, wide_scale_layers=(62,),
)  # fmt: skip
