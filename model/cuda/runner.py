"""The GPU backend of the engine: a loaded model, its decode step and its prefill, behind `model.runner.Runner`."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from kernel_templates.problem import Problem
from model.cuda.decode import Decoder
from model.cuda.out_of_memory import FOR_CONTEXT, room_for
from model.cuda.prefill import Prefill
from model.kernel_choices import Choice
from model.runner import STEPS_BELOW
from model.sampling import Sampler


class CudaRunner:
    """See `model.runner.Runner`. Nothing here waits for the device until a token or logits are asked for."""

    def __init__(self, choices: Mapping[Problem, Choice], decoder: Decoder, prefill: Prefill):
        self.choices, self.decoder, self.prefill = choices, decoder, prefill

    @property
    def context(self) -> int:
        return self.decoder.context

    def feed(self, tokens: list[int], first: int) -> None:
        if len(tokens) < STEPS_BELOW:
            for i, token in enumerate(tokens):
                self.decoder.step(token, first + i)
        else:
            self.decoder.predict(self._prefill(tokens, first)[0], first + len(tokens) - 1)

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        return self.decoder.stream(position, count, sampler)

    def logits(self, tokens: list[int], stepwise: bool) -> np.ndarray:
        out = np.empty((len(tokens), self.decoder.model.config.vocab), np.float32)
        hidden = None if stepwise else self._prefill(tokens, 0, every=True)
        for i, token in enumerate(tokens):
            row = self.decoder.step(token, i) if hidden is None else self.decoder.predict(hidden[i], i)
            out[i] = row.cpu().numpy()
        return out

    def close(self) -> None:
        """Wait for what still runs; the memory goes with the last reference."""
        if self.decoder.executor.device.type == "cuda":
            torch.cuda.synchronize(self.decoder.executor.device)

    def _prefill(self, tokens: list[int], first: int, every: bool = False) -> torch.Tensor:
        executor, wanted = self.decoder.executor, f"a prompt of {len(tokens)} tokens"
        with executor.here(), executor.span("prefill"), room_for(wanted, FOR_CONTEXT):
            return self.prefill.run(tokens, first, every)
