"""Qwen3's mixtures of experts, as Qwen3-30B-A3B (https://arxiv.org/abs/2505.09388): Qwen3's layer with small experts.

The weights of the chosen are divided by their sum, as in llama.cpp's src/models/qwen3moe.cpp and in all published
models (`norm_topk_prob` of transformers' modeling_qwen3_moe.py, which files do not name).
"""

from model.architectures.base import Architecture, Routing

ARCHITECTURE = Architecture("qwen3moe", rope="halves", qk_norm=True, routing=Routing("softmax", normalized=True))
