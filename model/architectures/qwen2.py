"""Qwen2 and Qwen2.5 (https://arxiv.org/abs/2407.10671): Llama's layer with biases of queries, keys and values."""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture("qwen2", rope="halves", qkv_bias=True)
