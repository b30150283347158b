"""The engine's front door: load a GGUF file with the best kernels known for this machine, and generate text."""

import importlib
import os
import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kernel_templates.attention.cache import F16, FORMATS
from kernel_templates.cuda import early
from kernel_templates.problem import Problem
from model import continuous_batching, speculation
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.continuous_batching import End, Event, Request
from model.errors import ModelError, quoted
from model.gguf_file import GGUFFile, open_gguf
from model.kernel_choices import Choice
from model.runner import Progress, Runner, Settings
from model.sampling import Sampler
from model.sequences import Sequences
from model.speculation_policy import Speculated, Watcher
from model.tokenizer import Stream, Tokenizer
from tuning_db import TuningDB

DEFAULT_CONTEXT = 4096
MERGES = "tokenizer.ggml.merges"  # strings of 10 to 20 MB that nothing reads once the tokenizer is built
BACKENDS = {"cpu": "model.cpu.runner", "cuda": "model.cuda.opening"}
"""Where each is opened; imported when asked for."""


@dataclass
class Timing:
    """Seconds and tokens of the last generation.

    prompt_s: until the first token is there; decode_s: from there until the last token is, as its reader saw it;
    cached: tokens of the prompt that were in the cache before; ended: the model itself ended its turn; speculated: None
    without speculation.
    """

    prompt_tokens: int = 0
    cached: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    decode_s: float = 0.0
    ended: bool = False
    speculated: Speculated | None = None


@dataclass(frozen=True)
class Prompt:
    """A text to go on with, or its token ids, where it has settings of its own: None is what all have."""

    text: str | Sequence[int]
    tokens: int | None = None
    sampler: Sampler | None = None
    parse_special: bool | None = None


@dataclass(frozen=True)
class Piece:
    """Text that was added to prompt `index`, counted from 0; may be empty with `end`, which the last piece has."""

    index: int
    text: str
    end: End | None


@dataclass
class Model:
    """A loaded model. Not for use from two threads at once."""

    file: GGUFFile
    config: ModelConfig
    tokenizer: Tokenizer
    runner: Runner
    load_s: float = 0.0
    """Seconds that `load` took."""
    timing: Timing = field(default_factory=Timing)
    watcher: Watcher = field(default_factory=Watcher)
    """Decides how many tokens are proposed, where speculation is asked for."""
    _cached: list[int] = field(default_factory=list)
    _text: object = None
    """What `_begin` gave last."""
    _sequences: Sequences | None = None
    """Of the last `generate_many`, empty, for the next."""

    def generate(
        self, text: str | Sequence[int], tokens: int = 128, sampler: Sampler | None = None, parse_special: bool = False,
        speculate: str = speculation.OFF,
    ) -> Iterator[str]:  # fmt: skip
        """Yield pieces of text after `text` (or token ids), at most `tokens` tokens, until the model ends its turn.

        speculate: "ngram" proposes tokens from the text so far and verifies several in one pass, where that is faster;
        the distribution of the text stays (`model.speculation`). Raises ModelError if the prompt is empty or leaves no
        room in the context, and when another text was begun before this one is read to its end: both would write to one
        cache.
        """
        prompt = self.tokenizer.encode(text, parse_special=parse_special) if isinstance(text, str) else list(text)
        stream = self.tokenizer.stream()
        for token in self.generate_tokens(prompt, tokens, sampler or Sampler(), speculate=speculate):
            if token in self.tokenizer.end_tokens:
                break
            if piece := stream.push(token):
                yield piece
        if piece := stream.flush():
            yield piece

    def generate_many(
        self,
        prompts: Iterable[str | Sequence[int] | Prompt | ModelError],
        tokens: int = 128,
        sampler: Sampler | None = None,
        most: int = 32,
        parse_special: bool = False,
    ) -> Generator[Piece, None, None]:
        """Go on with many prompts, up to `most` of them at once; pieces of all texts, as they are generated.

        Each text is what `generate` gives for its prompt and settings alone, with the same seed, but for rounding where
        two tokens are nearly tied. A prompt is taken from
        `prompts` when there is room for it and joins at any step; one whose memory is not free waits, and those after
        it. A prompt that cannot be answered ends alone, with the reason "error"; so does a ModelError in a prompt's
        place. `close()` of the iterator ends all.
        """
        if most < 1:
            raise ModelError(f"{most} texts at once are none; give 1 or more")
        common = Prompt("", tokens, sampler or Sampler(), parse_special)
        requests = (p if isinstance(p, ModelError) else self._request(p, common) for p in prompts)
        sequences, self._sequences = self._sequences, None
        if sequences is None or sequences.most != most:
            sequences = None  # its memory may be what the others need
            sequences = self.runner.open_sequences(most)
        try:
            with closing(
                continuous_batching.decode(sequences, requests, self.tokenizer.end_tokens, self.file.check_whole)
            ) as events:
                yield from self._pieces(events)
        except GeneratorExit:
            self._sequences = sequences
            raise
        self._sequences = sequences

    def generate_tokens(
        self, prompt: Sequence[int], tokens: int, sampler: Sampler, ignore_end: bool = False,
        speculate: str = speculation.OFF,
    ) -> Iterator[int]:  # fmt: skip
        """Yield token ids after `prompt`, an end token included; `ignore_end` goes on after one, for benchmarks.

        What the cache already holds is not computed again. speculate: as `generate`.
        """
        speculation.check(speculate, self.config)
        self._check_prompt(prompt)
        self.timing = timing = Timing(prompt_tokens=len(prompt))
        start = arrived = time.perf_counter()
        last: list[int] = []
        text = self._begin()
        self._feed(list(prompt))
        try:
            for chosen in self._chosen(prompt, min(tokens, self.context - len(prompt)), sampler, speculate):
                now = time.perf_counter()
                if timing.tokens == 0:
                    timing.prompt_s, arrived = now - start, now
                self._cached += [*last, *chosen[:-1]]  # only now that the next is here have they surely been computed
                last = chosen[-1:]
                for token in chosen:
                    timing.decode_s = now - arrived
                    timing.tokens += 1
                    timing.ended = token in self.tokenizer.end_tokens and not ignore_end
                    yield token
                    if timing.ended:
                        return
                    self._check_last(text)
                self.file.check_whole()  # the embedding stays in the file, and the next token reads a row of it
        finally:
            timing.speculated = self.watcher.summary() if speculate == speculation.NGRAM else None

    def _chosen(self, prompt: Sequence[int], count: int, sampler: Sampler, speculate: str) -> Iterator[list[int]]:
        """The tokens after a prompt that was fed, in lists: all but the last of one are in the cache when it comes."""
        if speculate == speculation.OFF:
            yield from ([token] for token in self.runner.stream(len(prompt), count, sampler))
            return
        if sampler.seed is None:  # steps and passes draw by one seed
            sampler = replace(sampler, seed=secrets.randbits(63))
        yield from speculation.stream(self.runner, prompt, count, sampler, self.watcher)

    def logits(self, tokens: Sequence[int], stepwise: bool = False) -> np.ndarray:
        """float32 [len(tokens), vocab]: the prediction after each token, from an empty context.

        stepwise: through the decode graph token by token, instead of the prefill.
        """
        self._check_prompt(tokens)
        self._begin()
        self._cached = []  # until the cache holds these tokens, it holds nothing
        out = self.runner.logits(list(tokens), stepwise)
        self._cached = list(tokens)
        return out

    def logit_rows(self, tokens: Sequence[int], stepwise: bool = False) -> Iterator[np.ndarray]:
        """As `logits`, row by row; each float32 [vocab] is valid until the next. For vocabularies whose logits of a
        whole text are too large."""
        self._check_prompt(tokens)
        text, self._cached = self._begin(), []
        for row in self.runner.logit_rows(list(tokens), stepwise):
            yield row
            self._check_last(text)

    @property
    def choices(self) -> Mapping[Problem, Choice]:
        """The configuration of each kernel problem and where it comes from."""
        return self.runner.choices

    @property
    def context(self) -> int:
        """Positions that the KV cache holds."""
        return self.runner.context

    @property
    def chat(self) -> ChatTemplate:
        """The file's own chat template. Raises ModelError if it has none and no ChatML tokens either."""
        return ChatTemplate.from_metadata(self.file.metadata)

    def reset(self) -> None:
        """Forget the conversation."""
        self._cached = []

    def close(self) -> None:
        """Stop what the backend runs; the memory goes with the last reference."""
        self.runner.close()

    def _begin(self) -> object:
        """A text that takes the cache."""
        self._text = object()
        return self._text

    def _check_last(self, text: object) -> None:
        """Raise ModelError when another text took the cache since this one began."""
        if self._text is not text:
            raise ModelError(
                "another text was begun with this model before this one ended; read each to its end, or use "
                "generate_many for several at once"
            )

    def _pieces(self, events: Iterable[Event]) -> Iterator[Piece]:
        streams: dict[int, Stream] = {}
        for event in events:
            stream = streams.get(event.index)
            if stream is None:
                stream = streams[event.index] = self.tokenizer.stream()
            token = event.token
            text = "" if token is None or token in self.tokenizer.end_tokens else stream.push(token)
            if event.end is not None:
                text += streams.pop(event.index).flush()
            if text or event.end is not None:
                yield Piece(event.index, text, event.end)

    def _request(self, prompt: str | Sequence[int] | Prompt, common: Prompt) -> Request | ModelError:
        """A prompt as tokens, with what it leaves open from `common`; or the error with which it ends."""
        own = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        tokens = common.tokens if own.tokens is None else own.tokens
        special = common.parse_special if own.parse_special is None else own.parse_special
        sampler = own.sampler or common.sampler
        assert tokens is not None and special is not None and sampler is not None
        try:
            ids = self.tokenizer.encode(own.text, parse_special=special) if isinstance(own.text, str) else own.text
            ids = tuple(ids)
            self._check_prompt(ids)
            if tokens < 1:
                raise ModelError(f"{tokens} tokens are no text; ask for 1 or more")
        except ModelError as error:
            return error
        return Request(ids, tokens, sampler)

    def _check_prompt(self, tokens: Sequence[int]) -> None:
        self.file.check_whole()
        if not tokens:
            raise ModelError("the prompt is empty; give some text")
        if len(tokens) >= self.context:
            raise ModelError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.context}; shorten it "
                f"or raise --context (this model was trained for {self.config.context})"
            )
        if not all(0 <= t < self.config.vocab for t in tokens):
            raise ModelError(f"a token id is outside the vocabulary of {self.config.vocab}")

    def _feed(self, prompt: list[int]) -> None:
        """Bring the cache to `prompt`; the beginning that it has in common with the last one is kept, where layers can
        go on behind it."""
        same = 0
        while same < min(len(prompt) - 1, len(self._cached)) and prompt[same] == self._cached[same]:
            same += 1
        same = self.runner.resume(same)
        self.timing.cached = same
        self._cached = self._cached[:same]  # what a failure or Ctrl-C below leaves is still true
        self.runner.feed(prompt[same:], same)
        self._cached = prompt


def load(
    path: str | os.PathLike,
    device: str = "cpu",
    *,
    db: TuningDB | None = None,
    context: int | None = None,
    tuned: bool = True,
    threads: int | None = None,
    progress: Progress = lambda done, of: None,
    nvtx: bool = False,
    prompt: str = "",
    gpu_memory: int | None = None,
    cache: str = F16,
) -> Model:
    """Load a GGUF model. device: "cpu", "cuda" or "cuda:N"; db: where winners are looked up (None: the templates'
    defaults); tuned=False ignores it.

    context: positions the KV cache holds, at most what the model was trained for; nvtx: mark the operations of a
    GPU for a profiler, which makes tokens slower; prompt: the text to come, where it is known: a GPU's kernels for as
    many tokens are then compiled while weights are read; gpu_memory: bytes of a GPU that weights, cache and buffers may
    take, None for what is free: experts that do not fit stay in host memory; cache: "f16" or, on a GPU, "q8_0", the
    format of the KV cache. Raises ModelError.
    """
    start = time.perf_counter()
    backend, index = parse_device(device)
    if backend == "cuda":
        early.begin_libraries()
    file = open_gguf(Path(path))
    config = ModelConfig.from_gguf(file)
    for sizes in config.sizes:
        for dim in (sizes.head_dim, *([sizes.delta.head_dim] if sizes.delta else [])):
            if dim % 16:
                raise ModelError(f"heads of {dim} elements are not supported; use a model whose heads divide by 16")
        if sizes.attended % 32 or sizes.kv_rows % 32:
            raise ModelError("the widths of all heads together must divide by 32; use another model")
    if nvtx and backend == "cpu":
        raise ModelError("NVTX marks what a GPU runs; give a GPU, such as cuda:0")
    if gpu_memory is not None and backend == "cpu":
        raise ModelError("a limit of a GPU's memory is for a GPU; give one, such as cuda:0")
    if cache not in FORMATS:
        raise ModelError(f"a KV cache in {quoted(cache)} is not known; use {' or '.join(FORMATS)}")
    if cache != F16 and backend == "cpu":
        raise ModelError(f"a KV cache in {cache} is for a GPU so far; give one, such as cuda:0, or leave it in {F16}")
    if context is not None and context < 1:
        raise ModelError(f"a context of {context} positions holds nothing; give 1 or more")
    positions = min(DEFAULT_CONTEXT if context is None else context, config.context)
    tokenizer = Tokenizer.from_metadata(file.metadata)  # refused before gigabytes are packed
    tokens = len(tokenizer.encode(prompt, parse_special=True)) if prompt and backend == "cuda" else 0
    settings = Settings(positions, db if tuned else None, index, threads, progress, nvtx, tokens, gpu_memory, cache)
    runner = importlib.import_module(BACKENDS[backend]).open_runner(file, config, settings)
    file = replace(file, metadata=MappingProxyType({k: v for k, v in file.metadata.items() if k != MERGES}))
    return Model(file, config, tokenizer, runner, load_s=time.perf_counter() - start)


def parse_device(text: str) -> tuple[str, int]:
    """ "cpu", "cuda" or "cuda:1" -> (backend, which one). Raises ModelError for anything else."""
    backend, colon, index = text.partition(":")
    if backend not in BACKENDS or (colon and (backend == "cpu" or not index.isdecimal())):
        raise ModelError(f"device {quoted(text)} is not known; use cpu, cuda or cuda:N")
    return backend, int(index or 0)
