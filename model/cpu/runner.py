"""The CPU backend of the engine: decode steps through one graph, prompts through torch, tokens chosen in numpy."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kernel_templates import registry
from kernel_templates.cpu import machine, proofs
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.lazy import Tensor
from kernel_templates.problem import Problem
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.sequences import CpuSequences
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, choose
from model.problems import model_problems
from model.runner import STEPS_BELOW, Runner, Settings
from model.sampling import Sampler
from model.sequences import Sequences

if TYPE_CHECKING:
    from model.cpu.prefill import CpuPrefill

TORCH_BYTES = 12_000_000_000
"""What decode steps read in the time that importing torch takes: 1.3 s at some 10 GB/s."""


def open_runner(file: GGUFFile, config: ModelConfig, settings: Settings) -> "CpuRunner":
    """Pack the model for this processor."""
    threads = ThreadChoice(settings.threads or machine.thread_count())
    features = machine.features()
    choices = choose(
        list(model_problems(config, file)),
        machine.detect(),
        lambda p: registry.cpu_space(p, features),
        settings.db,
        proofs.refusal,
    )
    chosen = {problem: choice.config for problem, choice in choices.items()}
    return CpuRunner(choices, Decoder(file, config, chosen, settings.context, threads, settings.progress))


class CpuRunner(Runner):
    """Tokens are chosen from the decoder's logits by `Sampler.picker`."""

    def __init__(self, choices: Mapping[Problem, Choice], decoder: Decoder):
        self.choices, self.decoder = choices, decoder
        self._prefill: CpuPrefill | None = None

    @property
    def prefill(self) -> "CpuPrefill":
        """Made for the first prompt that is long enough: it imports torch."""
        if self._prefill is None:
            from model.cpu.prefill import CpuPrefill

            self._prefill = CpuPrefill(self.decoder)
        return self._prefill

    @property
    def steps_below(self) -> int:
        """Importing torch takes as long as the steps that read so many bytes of weights, so the first prompt may be
        through before it is there. The number follows from the model alone: a text never depends on the time."""
        return max(STEPS_BELOW, TORCH_BYTES // self.decoder.weight_bytes) if self._prefill is None else STEPS_BELOW

    def warm_up(self) -> None:
        _ = self.prefill

    def _read(self, tokens: list[int], first: int, every: bool = False) -> Tensor:
        return self.prefill.run(tokens, first, every)

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        picker = sampler.picker()
        for i in range(count):
            token = picker.pick(self.decoder.logits)
            yield token
            if i + 1 < count:
                self.decoder.step(token, position + i)

    def open_sequences(self, most: int) -> Sequences:
        return CpuSequences(self, most)

    def close(self) -> None:
        """End the threads."""
        self.decoder.close()

    def on_host(self, logits: np.ndarray) -> np.ndarray:
        return logits
