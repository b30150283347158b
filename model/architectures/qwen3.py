"""Qwen3 (Qwen Team 2025, https://arxiv.org/abs/2505.09388): Llama's layer with RMS norm of each query and key head."""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture("qwen3", rope="halves", qk_norm=True)
