"""Texts of which rounding decides nothing: in a mixture of experts it may decide which of two gets a token.

A pass over many rows rounds what products read. In tiny models, whose routers' logits have a standard deviation of 1,
float16 moves two of them against each other by up to 0.003 in the first layer and 0.009 in the second, bfloat16 by 0.03
(docs/log.md). Where the last expert that is chosen and the first that is not are nearer than that, either may be
taken. The token's logits then differ by a third, and those of the tokens that attend to it, or read a delta net's state
behind it, by a twentieth. No bound of a distance is about these.
"""

from pathlib import Path

import numpy as np
import torch

from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.reference import LayerTrace, reference_hidden

ROUNDING = 3e-2
"""More than rounding moves two logits of a router against each other."""


def settled(path: Path, count: int, seed: int = 0) -> list[int]:
    """Random tokens whose experts are certain in every layer. Those of which they are not are drawn again."""
    file, rng = open_gguf(path), np.random.default_rng(seed)
    config = ModelConfig.from_gguf(file)
    tokens = rng.integers(0, config.vocab, count)
    if not any(sizes.mixture for sizes in config.sizes):
        return tokens.tolist()
    certain = torch.empty(count, dtype=torch.bool)

    def watch(layer: int, trace: LayerTrace) -> None:
        mixture = config.layer(layer).mixture
        if mixture is not None and trace.router is not None:
            last, following = trace.router.sort(-1, descending=True).values[:, mixture.used - 1 : mixture.used + 1].T
            certain.logical_and_(last - following > ROUNDING)

    while True:
        certain.fill_(True)
        reference_hidden(file, tokens.tolist(), watch=watch)
        if certain.all():
            return tokens.tolist()
        again = ~certain.numpy()
        tokens[again] = rng.integers(0, config.vocab, again.sum())
