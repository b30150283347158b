"""Qwen3.5's and 3.6's mixtures of experts (Qwen Team 2026), their text: Qwen3.5's layers with many small experts.

Every token also uses one more, whose weight is the sigmoid of a gate of its own.
The weights of the chosen are divided by their sum, as in llama.cpp's src/models/qwen35moe.cpp and transformers'
modeling_qwen3_5_moe.py, where no key says so.
"""

from model.architectures.base import Architecture, Routing

ARCHITECTURE = Architecture(
    "qwen35moe", rope="halves", qk_norm=True, output_gate=True, delta_period=4, ffn_norm="post_attention_norm",
    routing=Routing("softmax", normalized=True, shared=True), predicts_further=True,
)  # fmt: skip
