"""Phi-3 and Phi-4 (https://arxiv.org/abs/2404.14219): Llama's layer with Q, K, V in one tensor and gate, up in another.

Long contexts divide RoPE's frequencies by factors of the file (LongRoPE, https://arxiv.org/abs/2402.13753). The window
of a file holds in every layer, as in transformers' modeling_phi3.py; llama.cpp leaves it out.
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture("phi3", rope="halves", fused=True, window_period=0)
