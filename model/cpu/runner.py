"""The CPU backend of the engine: decode steps through one graph, many rows through another, tokens chosen in numpy."""

from collections.abc import Iterator, Mapping

import numpy as np

from kernel_templates import registry
from kernel_templates.cpu import machine, proofs
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.problem import Problem
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.forward import Forward
from model.cpu.prefill import CpuPrefill
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, choose
from model.problems import model_problems
from model.runner import Runner, Settings
from model.sampling import Sampler


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
        self.forward = Forward(decoder)
        self.prefill = CpuPrefill(decoder, self.forward)

    def stream(self, position: int, count: int, sampler: Sampler) -> Iterator[int]:
        picker = sampler.picker()
        for i in range(count):
            token = picker.pick(self.decoder.logits)
            yield token
            if i + 1 < count:
                self.decoder.step(token, position + i)

    def close(self) -> None:
        """End the threads."""
        self.decoder.close()

    def on_host(self, logits: np.ndarray) -> np.ndarray:
        return logits
