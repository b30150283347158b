"""Tokens of a mixture of experts of which rounding decides who gets them: no bound of a distance is about these.

A pass over many rows rounds what a router reads to float16, which moves logits of tiny models by up to 0.0008. Where
the last expert that is chosen and the first that is not are nearer than that, either may be taken, and the token's
logits then differ by about a tenth. What other tokens see of it is within their bounds.
"""

from pathlib import Path

import torch

from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.reference import LayerTrace, reference_hidden

ROUNDING = 2e-3
"""More than rounding moves a logit, by what it rounds in layers before as well."""


def settled(path: Path, tokens: list[int]) -> list[int]:
    """The numbers of the tokens whose experts are certain in every layer: of most tokens they are."""
    file = open_gguf(path)
    config, certain = ModelConfig.from_gguf(file), torch.ones(len(tokens), dtype=torch.bool)
    if not any(sizes.mixture for sizes in config.sizes):
        return list(range(len(tokens)))

    def watch(layer: int, trace: LayerTrace) -> None:
        mixture = config.layer(layer).mixture
        if mixture is not None and trace.router is not None:
            last, following = trace.router.sort(-1, descending=True).values[:, mixture.used - 1 : mixture.used + 1].T
            certain.logical_and_(last - following > ROUNDING)

    reference_hidden(file, tokens, watch=watch)
    found = certain.nonzero()[:, 0].tolist()
    assert len(found) >= 0.9 * len(tokens)
    return found
