"""The CPU backend of the engine: decode steps through one graph, many rows through another, tokens chosen in numpy."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from kernel_templates import registry
from kernel_templates.cpu import machine, proofs
from kernel_templates.cpu.thread_choice import ThreadChoice
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.cpu.decode import Decoder
from model.cpu.forward import Forward, products
from model.cpu.prefill import CpuPrefill
from model.cpu.sequences import CpuSequences
from model.gguf_file import GGUFFile
from model.kernel_choices import Choice, choose
from model.problems import model_problems
from model.runner import More, Runner, Settings, always
from model.sampling import Sampler
from model.sequences import Sequences


def open_runner(file: GGUFFile, config: ModelConfig, settings: Settings) -> "CpuRunner":
    """Pack the model for this processor."""
    threads = ThreadChoice(settings.threads or machine.thread_count())
    features = machine.features()

    def chosen(problems: Sequence[Problem]) -> dict[Problem, Choice]:
        return choose(
            problems, machine.detect(), lambda p: registry.cpu_space(p, features), settings.db, proofs.refusal
        )

    choices = chosen(list(model_problems(config, file)))
    configs = {problem: choice.config for problem, choice in choices.items()}
    decoder = Decoder(file, config, configs, settings.context, threads, settings.progress)
    passes = chosen(products(decoder)) if settings.db else {}
    return CpuRunner(choices, decoder, {problem: choice.config for problem, choice in passes.items()})


class CpuRunner(Runner):
    """Tokens are chosen from the decoder's logits by `Sampler.picker`."""

    def __init__(
        self,
        choices: Mapping[Problem, Choice],
        decoder: Decoder,
        passes: Mapping[Problem, Config] = MappingProxyType({}),
    ):
        """passes: configurations of products with many rows; their space's default where there is none."""
        self.choices, self.decoder = choices, decoder
        self.forward = Forward(decoder, passes)
        self.prefill: CpuPrefill = CpuPrefill(decoder, self.forward)  # type: ignore[assignment]

    @property
    def taken_in(self) -> int | None:
        return self.decoder.taken_in if any(sizes.delta for sizes in self.decoder.config.sizes) else None

    def feed(self, tokens: list[int], first: int) -> None:
        """Marks the end of the prompt, where layers can go back to if the text after it is not gone on with."""
        super().feed(tokens, first)
        if self.taken_in is not None:
            self.decoder.mark.set(first + len(tokens))

    def resume(self, same: int) -> int:
        mark = self.decoder.mark
        if self.taken_in in (None, same) or not 0 < mark.at <= same:
            return super().resume(same)
        self.decoder.taken_in = -1  # until all states are back
        mark.go_back()
        self.decoder.taken_in = mark.at
        return mark.at

    def row_logits(
        self, tokens: Sequence[int], positions: Sequence[int], texts: Sequence[int], threads: int | None = None
    ) -> np.ndarray:
        """float32 [rows, vocab], valid until the next call: what is predicted after each row of one pass, which brings
        the rows into their texts' caches. Rows are tokens of texts at positions; those of a text are neighbours at
        consecutive positions. Text 0 has the decoder's cache, others what `forward.place` gave them. threads: as many
        as decode steps run on if None."""
        threads = threads or self.decoder.threads.current
        self.forward.run(tokens, positions, texts, threads)
        return self.forward.logits(threads)

    def warm_up(self) -> None:
        self.forward.warm_up()

    def _read(self, tokens: list[int], first: int, every: bool = False) -> Any:
        return self.prefill.run(tokens, first, every)

    def stream(self, position: int, count: int, sampler: Sampler, more: More = always) -> Iterator[int]:
        picker = sampler.picker()
        for at in range(position, position + count):
            token = picker.pick(self.decoder.logits, at)
            yield token
            if at + 1 == position + count or not more(0):
                return
            self.decoder.step(token, at)

    def verify(self, tokens: list[int], first: int, sampler: Sampler) -> list[int]:
        picker, chosen = sampler.picker(), []
        positions = range(first, first + len(tokens))
        for row, position in zip(self.row_logits(tokens, positions, [0] * len(tokens)), positions, strict=True):
            chosen.append(picker.pick(row, position + 1))
        return chosen

    def make_ready(self, tokens: int, first: int, sampler: Sampler) -> bool:
        return True  # the first pass of any size compiles for all

    def open_sequences(self, most: int) -> Sequences:
        return CpuSequences(self, most)

    def close(self) -> None:
        """End the threads."""
        self.decoder.close()

    def on_host(self, logits: np.ndarray) -> np.ndarray:
        return logits
