"""Prompts on the CPU: chunk after chunk of their tokens through `Forward`."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernel_templates.layer.chain import Link
from kernel_templates.lazy import Tensor, torch
from model.cpu.decode import Decoder
from model.cpu.forward import OWN, Caches, Forward

FEW = 32
"""Tokens of which a layer takes less time than looks at what other processes do are worth."""
PASSED = ("x", "qkv", "attended")  # the buffers that operations pass on
ALONE = {"qkv": "qkv", "attention": "attended", "out": "x", "ffn": "x"}
"""The operations of a layer that can be run alone: by prefix, the buffer that each makes."""


@dataclass(frozen=True)
class Part:
    """One operation of one layer, of those in ALONE."""

    link: Link
    layer: int


class CpuPrefill:
    """Reads prompts through a decoder's weights into a KV cache, the decoder's if none is given (`over`)."""

    def __init__(self, decoder: Decoder, forward: Forward):
        self.config, self.decoder, self.forward = decoder.config, decoder, forward
        self.steps = [
            [Part(step.link, i) for step in layer.steps if step.link.prefix in ALONE]
            for i, layer in enumerate(decoder.plan.layers)
        ]
        """Of each layer, in order, those that can be run alone."""
        self._caches: Caches = [layer.buffers for layer in decoder.layers]
        self._text = OWN

    @property
    def most(self) -> int:
        """Tokens of a chunk."""
        return self.forward.most

    def over(self, caches: Sequence[Mapping[str, np.ndarray]], text: int) -> "CpuPrefill":
        """One that fills another text's KV cache, "keys" and "values" of each layer, through the same weights and
        memory."""
        other = copy.copy(self)
        other._caches, other._text = caches, text
        return other

    def run(self, tokens: list[int], first: int, every: bool = False) -> np.ndarray:
        """Process tokens at positions first, first + 1, ...; hidden states float32 [1, hidden] of the last token, or
        [tokens, hidden] of every one."""
        choice, kept = self.decoder.threads, list[np.ndarray]()
        self.forward.place(self._text, self._caches)
        for i in range(0, len(tokens), self.most):
            chunk = tokens[i : i + self.most]
            threads = choice.by_load if len(chunk) > FEW else choice.current  # each layer anew: others come and go
            positions = range(first + i, first + i + len(chunk))
            hidden = self.forward.run(chunk, positions, [self._text] * len(chunk), threads)
            kept = [*kept, hidden.copy()] if every else [hidden[-1:].copy()]
        return np.concatenate(kept)

    def chunks(self, first: int, count: int) -> range:
        """The positions of a chunk, as `run_step` wants them."""
        return range(first, first + count)

    def run_step(self, step: Part, positions: range, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What one operation makes of `buffers`; both by the layer's names: x [tokens, hidden], qkv (the queries alone)
        [tokens, heads, head_dim], attended [tokens, heads * head_dim]."""
        forward, count, sizes = self.forward, len(positions), self.config.layer(step.layer)
        forward.place(self._text, self._caches)
        forward.prepare([0] * count, positions, [self._text] * count)
        places = {
            "x": forward.x[:count],
            "qkv": forward.qkv(step.layer)[:count, : sizes.q_rows],
            "attended": forward.attended(step.layer)[:count],
        }
        for name in PASSED:
            if name in buffers:
                places[name][:] = buffers[name].reshape(count, -1).numpy()
        forward.run_alone(step.layer, step.link.prefix, self.decoder.threads.by_load())
        made = ALONE[step.link.prefix]
        found = torch.from_numpy(places[made].copy())
        return {made: found.view(count, sizes.heads, sizes.head_dim) if made == "qkv" else found}
