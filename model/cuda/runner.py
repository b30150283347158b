"""The GPU backend of the engine: a loaded model, its decode step and its prefill, behind `model.runner.Runner`."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from kernel_templates.problem import Problem
from model.cuda.decode import Decoder
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.cuda.prefill import CudaPrefill
from model.kernel_choices import Choice
from model.runner import More, Runner, always
from model.sampling import Sampler


class CudaRunner(Runner):
    """Nothing here waits for the device until a token or logits are asked for."""

    def __init__(self, choices: Mapping[Problem, Choice], decoder: Decoder, prefill: CudaPrefill):
        self.choices, self.decoder, self.prefill = choices, decoder, prefill

    def stream(self, position: int, count: int, sampler: Sampler, more: More = always) -> Iterator[int]:
        return self.decoder.stream(position, count, sampler, more)

    def verify(self, tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        chosen: list[int] = []
        for position, hidden in enumerate(self._read(tokens, first, every=True), first):
            self.decoder.predict(hidden, position)
            chosen += self.decoder.stream(position + 1, 1, sampler)
        return chosen

    def close(self) -> None:
        """Wait for what still runs."""
        if self.decoder.executor.device.type == "cuda":
            torch.cuda.synchronize(self.decoder.executor.device)

    def _read(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        executor, wanted = self.decoder.executor, f"a prompt of {len(tokens)} tokens"
        with executor.here(), executor.span("prefill"), explain_out_of_memory(wanted, FOR_CONTEXT):
            return self.prefill.run(tokens, first, every)

    def on_host(self, logits: Tensor) -> np.ndarray:
        return logits.cpu().numpy()
