"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971), and what is built like it, as SmolLM2 is.

GGUF stores the rows of its Q and K so that neighbours turn together.
"""

from model.architectures.base import Architecture

ARCHITECTURE = Architecture("llama", rope="pairs")
