"""Llama (https://arxiv.org/abs/2302.13971) and what is built like it, Mistral and SmolLM2 among others.

GGUF stores the rows of its Q and K so that neighbours turn together. Mistral 7B v0.1 has a window of 4096 positions in
every layer (https://arxiv.org/abs/2310.06825); llama.cpp reads no such key in a llama file.
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture("llama", rope="pairs", window_period=0)
