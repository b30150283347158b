"""The engine's front door: load a GGUF file with the best kernels known for this machine, and generate text."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.decode import Decoder
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.prefill import Prefill
from model.problems import model_problems
from model.sampling import Sampler
from model.tokenizer import Tokenizer
from tuning_db import TuningDB
from tuning_db.records import Lookup, Source

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Choice:
    """Which configuration a problem runs with, and why."""

    config: Config
    source: Source
    detail: str


@dataclass
class Timing:
    """Seconds and tokens of the last generation."""

    prompt_tokens: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    decode_s: float = 0.0


@dataclass
class Model:
    """A loaded model. Not for use from two threads at once."""

    file: GGUFFile
    config: ModelConfig
    tokenizer: Tokenizer
    choices: Mapping[Problem, Choice]
    decoder: Decoder
    prefill: Prefill
    timing: Timing = field(default_factory=Timing)
    _cached: list[int] = field(default_factory=list)

    def generate(
        self, text: str | Sequence[int], tokens: int = 128, sampler: Sampler | None = None, parse_special: bool = False
    ) -> Iterator[str]:
        """Yield pieces of text after `text` (or token ids), at most `tokens` tokens, until the model ends its turn.

        Raises ModelError if the prompt is empty or leaves no room in the context.
        """
        prompt = self.tokenizer.encode(text, parse_special=parse_special) if isinstance(text, str) else list(text)
        stream = self.tokenizer.stream()
        for token in self.generate_tokens(prompt, tokens, sampler or Sampler()):
            if token in self.tokenizer.end_tokens:
                break
            if piece := stream.push(token):
                yield piece
        if piece := stream.flush():
            yield piece

    def generate_tokens(
        self, prompt: Sequence[int], tokens: int, sampler: Sampler, ignore_end: bool = False
    ) -> Iterator[int]:
        """Yield token ids after `prompt`, an end token included; `ignore_end` goes on after one, for benchmarks.

        What the cache already holds is not computed again.
        """
        self._check_prompt(prompt)
        self.timing = Timing(prompt_tokens=len(prompt))
        pick = sampler.picker()
        start = time.perf_counter()
        logits = self._feed(list(prompt))
        self.timing.prompt_s = time.perf_counter() - start
        limit = min(tokens, self.decoder.context - len(prompt))
        for i in range(limit):
            token = pick.pick(logits)
            self.timing.tokens += 1
            yield token
            if i == limit - 1 or (token in self.tokenizer.end_tokens and not ignore_end):
                return
            start = time.perf_counter()
            logits = self.decoder.step(token, len(self._cached))
            self._cached.append(token)
            self.timing.decode_s += time.perf_counter() - start

    def logits(self, tokens: Sequence[int], stepwise: bool = False) -> np.ndarray:
        """float32 [len(tokens), vocab]: the prediction after each token, from an empty context.

        stepwise: through the decode graph token by token, instead of the prefill.
        """
        self._check_prompt(tokens)
        self._cached = []  # until the cache holds these tokens, it holds nothing
        if stepwise:
            out = np.stack([self.decoder.step(t, i).copy() for i, t in enumerate(tokens)])
        else:
            out = self.prefill.logits(self.prefill.run(list(tokens), 0)).numpy()
        self._cached = list(tokens)
        return out

    @property
    def chat(self) -> ChatTemplate:
        """The file's own chat template. Raises ModelError if it has none and no ChatML tokens either."""
        return ChatTemplate.from_metadata(self.file.metadata)

    def reset(self) -> None:
        """Forget the conversation."""
        self._cached = []

    def close(self) -> None:
        """End the threads; the memory goes with the last reference."""
        self.decoder.close()

    def _check_prompt(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ModelError("the prompt is empty; give some text")
        if len(tokens) >= self.decoder.context:
            raise ModelError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.decoder.context}; shorten it "
                f"or raise --context (this model was trained for {self.config.context})"
            )
        if not all(0 <= t < self.config.vocab for t in tokens):
            raise ModelError(f"a token id is outside the vocabulary of {self.config.vocab}")

    def _feed(self, prompt: list[int]) -> np.ndarray:
        """Bring the cache to `prompt` and return the logits after it; the common beginning is kept."""
        same = 0
        while same < min(len(prompt) - 1, len(self._cached)) and prompt[same] == self._cached[same]:
            same += 1
        rest = prompt[same:]
        self._cached = self._cached[:same]  # what a failure or Ctrl-C below leaves is still true
        if len(rest) < 4:  # a product over so few rows costs more than as many steps
            for token in rest:
                logits = self.decoder.step(token, len(self._cached))
                self._cached.append(token)
            return logits
        hidden = self.prefill.run(rest, same)
        self._cached = prompt
        return self.prefill.logits(hidden[-1:])[0].numpy()


def load(
    path: str | os.PathLike,
    device: str = "cpu",
    *,
    db: TuningDB | None = None,
    context: int | None = None,
    tuned: bool = True,
    threads: int | None = None,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> Model:
    """Load a GGUF model. db: where winners are looked up (None: the templates' defaults); tuned=False ignores it.

    context: positions the KV cache holds, at most what the model was trained for. Raises ModelError.
    """
    if device != "cpu":
        raise ModelError(f"device {device!r} is not supported yet; use --device cpu")
    file = open_gguf(Path(path))
    config = ModelConfig.from_gguf(file)
    if config.head_dim % 16:
        raise ModelError(f"heads of {config.head_dim} elements are not supported; use a model whose heads divide by 16")
    if any(heads * config.head_dim % 32 for heads in (config.heads, config.kv_heads)):
        raise ModelError("the widths of all heads together must divide by 32; use another model")
    if context is not None and context < 1:
        raise ModelError(f"a context of {context} positions holds nothing; give 1 or more")
    room = min(DEFAULT_CONTEXT if context is None else context, config.context)
    tokenizer = Tokenizer.from_metadata(file.metadata)  # refused before gigabytes are packed
    threads = threads or machine.thread_count()
    torch.set_num_threads(threads)
    choices = choose(list(model_problems(config, file)), db if tuned else None)
    chosen = {problem: choice.config for problem, choice in choices.items()}
    decoder = Decoder(file, config, chosen, room, threads, on_layer)
    return Model(
        file=file,
        config=config,
        tokenizer=tokenizer,
        choices=choices,
        decoder=decoder,
        prefill=Prefill(decoder),
    )


def choose(problems: Sequence[Problem], db: TuningDB | None) -> dict[Problem, Choice]:
    """The configuration for each problem: the database's if it has one that is legal here, else the default."""
    features = machine.features()
    found: Mapping[str, Lookup] = {}
    if db is not None:
        found = db.lookup_all(machine.detect(), [(p.key, p.template_version) for p in problems])
    choices = {}
    for problem in problems:
        space = registry.get(problem.op).cpu_space(problem, features)
        answer = found.get(problem.key)
        choices[problem] = Choice(space.default, Source.DEFAULT, answer.detail if answer else "no database was asked")
        if answer and answer.winner:
            broken = space.broken(answer.winner.config)
            if broken is None:
                choices[problem] = Choice(Config(answer.winner.config), answer.source, answer.detail)
            else:
                detail = f"{answer.source}: {answer.detail} is not legal here: {broken.reason}"
                choices[problem] = Choice(space.default, Source.DEFAULT, detail)
    return choices
