"""Qwen3.5 and later (Qwen Team 2026), the text of dense models: three of four layers are gated delta nets
(https://arxiv.org/abs/2412.06464), the others have attention with an output gate.

RoPE turns a quarter of a head. Its sections (interleaved M-RoPE) only matter for images: a text's three positions are
one. A file's last layers may predict tokens beyond the next; those are left alone, as are parts that see.
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture(
    "qwen35", rope="halves", qk_norm=True, output_gate=True, delta_period=4, ffn_norm="post_attention_norm",
    predicts_further=True,
)  # fmt: skip
