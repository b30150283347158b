"""The GPU backend of the engine: a loaded model, its decode step and its passes over many tokens, behind
`model.runner.Runner`."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kernel_templates.problem import Problem
from model.cuda import sequences
from model.cuda.decode import Decoder
from model.cuda.delta_states import Checkpoint, States
from model.cuda.forward import Forward
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.cuda.place_experts import Placed
from model.cuda.verify import Verifier
from model.kernel_choices import Choice
from model.runner import More, Runner, always
from model.sampling import Sampler
from model.sequences import Sequences
from model.widths import PassSize


class CudaRunner(Runner):
    """Nothing here waits for the device until a token or logits are asked for, unless the host computes experts."""

    def __init__(
        self, choices: Mapping[Problem, Choice], decoder: Decoder, forward: Forward, placed: Placed | None = None
    ) -> None:
        self.choices, self.decoder, self.forward = choices, decoder, forward
        self._host = None if placed is None else placed.host
        self.experts = None if placed is None else placed.placement

    @property
    def taken_in(self) -> int | None:
        return self.decoder.taken_in if any(sizes.delta for sizes in self.decoder.model.config.sizes) else None

    def resume(self, same: int) -> int:
        checkpoint = self.decoder.checkpoint
        if self.taken_in in (None, same) or checkpoint is None or checkpoint.position > same:
            return super().resume(same)
        with self.decoder.executor.here():
            checkpoint.restore(self._kept)
        self.decoder.taken_in = checkpoint.position
        return checkpoint.position

    def warm_up(self) -> None:
        """Capture the largest pass."""
        with self.decoder.executor.here():
            most = self.forward.most
            self.forward.program(PassSize(1, most, self.forward.bound(min(most, self.context) - 1)))

    def stream(self, position: int, count: int, sampler: Sampler, more: More = always) -> Iterator[int]:
        return self.decoder.stream(position, count, sampler, more)

    def verify(self, tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        return self._verifier.verify(tokens, first, sampler)

    def make_ready(self, tokens: int, first: int, sampler: Sampler) -> bool:
        return self._verifier.make_ready(tokens, first, sampler)

    def open_sequences(self, most: int) -> Sequences:
        return sequences.opened(self.forward, self.decoder.head_config, most)

    def close(self) -> None:
        """Wait for what still runs."""
        if self.decoder.executor.device.type == "cuda":
            torch.cuda.synchronize(self.decoder.executor.device)
        if self._host is not None:
            self._host.close()

    def _read(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        executor, wanted = self.decoder.executor, f"a prompt of {len(tokens)} tokens"
        with executor.here(), executor.span("prefill"), explain_out_of_memory(wanted, FOR_CONTEXT):
            self.decoder.take_in(first, len(tokens))
            made = self.forward.read(tokens, first, every=every)
            if self.taken_in is not None:
                self.decoder.checkpoint = Checkpoint.of(self.decoder.taken_in, self._kept)
            return made

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self.forward)

    @property
    def _kept(self) -> list[States]:
        return [layer.buffers for layer in self.decoder.model.layers]

    def on_host(self, logits: Tensor) -> np.ndarray:
        return logits.cpu().numpy()
