"""The CPU backend of the engine: decode steps through one graph, prompts through torch, tokens chosen in numpy."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.problem import Problem
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.prefill import Prefill
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, choose
from model.problems import model_problems
from model.runner import STEPS_BELOW, Settings
from model.sampling import Sampler


def open_runner(file: GGUFFile, config: ModelConfig, settings: Settings) -> "CpuRunner":
    """Pack the model for this processor."""
    threads = settings.threads or machine.thread_count()
    torch.set_num_threads(threads)
    features = machine.features()
    choices = choose(
        list(model_problems(config, file)),
        machine.detect(),
        lambda p: registry.cpu_space(p, features),
        settings.db,
    )
    chosen = {problem: choice.config for problem, choice in choices.items()}
    return CpuRunner(choices, Decoder(file, config, chosen, settings.context, threads, settings.on_layer))


class CpuRunner:
    """See `model.runner.Runner`."""

    def __init__(self, choices: Mapping[Problem, Choice], decoder: Decoder):
        self.choices, self.decoder, self.prefill = choices, decoder, Prefill(decoder)
        self._logits = np.empty(0, np.float32)

    @property
    def context(self) -> int:
        return self.decoder.context

    def feed(self, tokens: list[int], first: int) -> None:
        if len(tokens) < STEPS_BELOW:
            for i, token in enumerate(tokens):
                self._logits = self.decoder.step(token, first + i)
        else:
            hidden = self.prefill.run(tokens, first)
            self._logits = self.prefill.logits(hidden[-1:])[0].numpy()

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        picker = sampler.picker()
        for i in range(count):
            token = picker.pick(self._logits)
            yield token
            if i + 1 < count:
                self._logits = self.decoder.step(token, position + i)

    def logits(self, tokens: list[int], stepwise: bool) -> np.ndarray:
        if stepwise:
            return np.stack([self.decoder.step(token, i).copy() for i, token in enumerate(tokens)])
        return self.prefill.logits(self.prefill.run(tokens, 0)).numpy()

    def close(self) -> None:
        """End the threads; the memory goes with the last reference."""
        self.decoder.close()
