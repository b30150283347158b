"""Benchmarks a model on a device, untuned against tuned: prefill, decoding, prompts of several lengths, several texts
together, and where a token's time goes.

One of the places that know both the tuner and the engine. Both engines are loaded and take turns, so that a machine
that drifts drifts for both; where memory holds only one, they are measured one after the other. Decoding is timed as a
user gets it: from the first token to the last, each of them sampled and read by Python.
"""

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import model
from autotune.benchmarking import several_texts
from autotune.benchmarking.benchmark_result import (
    BATCH,
    PREFILL,
    PROMPT,
    SIDES,
    Decode,
    KernelTime,
    ModelBenchmark,
    Rate,
    Side,
    What,
)  # fmt: skip
from autotune.benchmarking.speedup import Speedup
from autotune.runner.versions import versions
from kernel_templates.attention.cache import F16
from kernel_templates.device import Device
from model.engine import Model, parse_device
from model.errors import ModelError
from model.sampling import Sampler
from model.sequences import Sequences
from tuning_db import TuningDB

BACKENDS = {"cpu": "autotune.benchmarking.cpu_backend", "cuda": "autotune.benchmarking.cuda_backend"}
PROMPT_TEXT = "The quick brown fox jumps over the lazy dog while seven wise owls watch from the old oak tree. "
SHORT = 1  # tokens of the prompt that decoding from an empty context starts with
clock = time.perf_counter


class Backend(Protocol):
    """The part of a benchmark that differs between devices. A position: of the token in the middle, for all."""

    PROMPT: int
    """Default number of tokens of the prompt."""
    DEPTHS: tuple[int, ...]
    WIDTHS: tuple[str, ...]
    """What is measured beside decoding and that prompt, unless a user says otherwise: of `model.widths.WIDTHS`."""
    PROMPTS: tuple[int, ...]
    TEXTS: tuple[int, ...]
    CAPTURED_ALONE: bool
    """Whether `kernels` are timed by themselves; if not, inside the token."""
    device: Device
    read_rounds: list[float]
    """Read bandwidth, GB/s, of each turn so far."""

    def holds_both(self, file_bytes: int) -> bool:
        """Whether memory holds two engines of a model of this size."""

    def observe(self, side: str, engine: Model, position: int) -> None:
        """Called after each turn of an engine: for what drifts with the machine."""

    def read_gb_s(self) -> float:
        """The best read bandwidth that was measured; asked for after all turns."""

    def cache_bytes(self) -> int:
        """Bytes of the last-level cache: fewer may be read from there, faster than from memory."""

    def token(self, engine: Model, position: int) -> tuple[int, int]:
        """(kernels, bytes that it has to read and write) of a token."""

    def kernels(self, side: str, engine: Model, position: int) -> list[KernelTime]:
        """Times of a token's kernels; may leave nonsense in the engine's buffers and cache."""

    def release(self) -> None:
        """Give back the memory of engines that were closed."""


@dataclass(frozen=True)
class Request:
    """A request for measurements. depths: cached tokens to decode after, in order; prompts: tokens of further prompts;
    texts: how many are decoded together."""

    prompt: int
    tokens: int
    runs: int
    depths: tuple[int, ...]
    prompts: tuple[int, ...] = ()
    texts: tuple[int, ...] = ()
    prompt_is_default: bool = False

    @property
    def room(self) -> int:
        """Positions of the cache that all of it needs."""
        together = several_texts.PROMPT + several_texts.TOKENS + 1 if self.texts else 0
        return max(self.prompt + 1, together, *(p + 1 for p in self.prompts), *(self.end(d) for d in self.depths))

    def end(self, depth: int) -> int:
        return max(depth, SHORT) + self.tokens + 1

    def middle(self, depth: int) -> int:
        """The position of the token in the middle."""
        return max(depth, SHORT) + self.tokens // 2

    def within(self, context: int) -> "Request":
        """With the depths that fit a context, and of a prompt that nobody asked for as much as does. Raises ModelError
        if no depth fits, or the prompt does not."""
        prompt = max(min(self.prompt, context - 1), 1) if self.prompt_is_default else self.prompt
        depths = tuple(depth for depth in self.depths if self.end(depth) <= context)
        if not depths or prompt + 1 > context:
            need = max(prompt + 1, self.end(self.depths[0]))
            raise ModelError(f"this needs a context of {need} tokens and the model has {context}; ask for fewer")
        prompts = tuple(other for other in self.prompts if other + 1 <= context and other != prompt)
        texts = self.texts if context > several_texts.PROMPT + several_texts.TOKENS else ()
        return replace(self, prompt=prompt, depths=depths, prompts=prompts, texts=texts)


def benchmark(
    path: str | Path, db: TuningDB, device: str, *, prompt: int | None = None, tokens: int = 128, runs: int = 5,
    depths: tuple[int, ...] = (), widths: tuple[str, ...] | None = None, nvtx: bool = False,
    gpu_memory: int | None = None, cache: str = F16, progress: Callable[[str], None] = lambda step: None,
) -> ModelBenchmark:  # fmt: skip
    """Prefill of `prompt` tokens, and decoding of `tokens` from each depth; rates are medians of `runs`.

    widths: "prompt" adds prompts of several lengths, "batch" several texts decoded together; None: what the backend is
    usually asked for, as far as it can. gpu_memory, cache: as of `model.engine.load`. progress: is told in words what
    is done next. Without a prompt or depths, the backend's defaults. Depths and prompts past what the model was trained
    for are left out. Raises ModelError and kernel_templates.cuda.machine.DeviceError.
    """
    kind, index = parse_device(device)
    backend: Backend = importlib.import_module(BACKENDS[kind]).open_backend(db, index)
    wanted, main = backend.WIDTHS if widths is None else widths, prompt or backend.PROMPT
    request = Request(
        main, tokens, runs, tuple(sorted(set(depths or backend.DEPTHS))),
        tuple(p for p in backend.PROMPTS if p != main) if PROMPT in wanted else (),
        backend.TEXTS if BATCH in wanted else (), prompt_is_default=not prompt,
    )  # fmt: skip
    together = gpu_memory is None and backend.holds_both(Path(path).stat().st_size)
    measured: dict[str, Side] = {}
    rates: dict[str, dict[What, np.ndarray]] = {}
    sources: dict[str, str] = {}
    experts: dict[str, Any] = {}
    for sides in [SIDES] if together else [(side,) for side in SIDES]:
        with ExitStack() as opened:
            engines = {}
            for side in sides:
                progress(f"loading the {side} engine")
                engine = model.load(
                    path,
                    device,
                    db=db,
                    tuned=side == "tuned",
                    context=request.room,
                    nvtx=nvtx,
                    gpu_memory=gpu_memory,
                    cache=cache,
                )
                if engine.runner.experts is not None:
                    experts[side] = engine.runner.experts.document()
                engines[side] = opened.enter_context(closing(engine))
            asked = request.within(next(iter(engines.values())).context)
            together_texts = _sequences(engines, asked, needed=widths is not None)
            if not together_texts:
                asked = replace(asked, texts=())
            found, first = _rates(engines, asked, backend, together_texts, progress)
            rates |= found
            progress("the kernels of a token")
            measured |= _sides(engines, found, first, asked, backend)
            if "tuned" in engines:
                sources = {p.key: c.source.value for p, c in engines["tuned"].choices.items()}
            del engine, engines, together_texts  # the memory goes with the last reference
        backend.release()
    settings = {
        "prompt": asked.prompt, "tokens": tokens, "runs": runs, "alternating": together, "nvtx": nvtx,
        "captured_alone": backend.CAPTURED_ALONE, "cache_bytes": backend.cache_bytes(),
        **({} if cache == F16 else {"cache": cache}),
        **({} if gpu_memory is None else {"gpu_memory": gpu_memory}), **({"experts": experts} if experts else {}),
        "text_prompt": several_texts.PROMPT, "text_tokens": several_texts.TOKENS,
    }  # fmt: skip
    before, after = rates["untuned"], rates["tuned"]
    speedups = {what: Speedup.of(before[what].tolist(), after[what].tolist(), together) for what in before}
    return ModelBenchmark(
        Path(path).name, backend.device.chip, backend.device.fingerprint, backend.read_gb_s(),
        measured["untuned"], measured["tuned"], versions() | dict(backend.device.versions), settings, sources,
        speedups, tuple(backend.read_rounds),
    )  # fmt: skip


def _sequences(engines: Mapping[str, Model], request: Request, needed: bool) -> dict[str, Sequences]:
    """What decodes several texts, for each side; none where that is not asked for, or cannot be and is not `needed`.
    Raises ModelError where it is."""
    if not request.texts:
        return {}
    try:
        return {side: engine.runner.open_sequences(max(request.texts)) for side, engine in engines.items()}
    except ModelError:
        if needed:
            raise
        return {}


def _rates(
    engines: Mapping[str, Model], request: Request, backend: Backend, sequences: Mapping[str, Sequences],
    progress: Callable[[str], None],
) -> tuple[dict[str, dict[What, np.ndarray]], dict[str, float]]:  # fmt: skip
    """Runs a second of each side, in turn: of a decoded token by depth, of whole prompts, of a step of several texts.
    And the seconds from the beginning of each side's loading to the end of its first prefill, without what was between
    them."""
    seconds: dict[str, dict[What, list[float]]] = {side: {} for side in engines}
    first: dict[str, float] = {}
    for number in range(-1, request.runs):  # the first turn warms up: graphs are captured when first needed
        for side in list(engines)[:: 1 if number % 2 else -1]:
            progress(f"{side}, {f'round {number + 1} of {request.runs}' if number >= 0 else 'warming up'}")
            turn = _turn(engines[side], request, sequences.get(side))
            if number < 0:
                first[side] = engines[side].load_s + turn[PREFILL]
                engines[side].runner.warm_up()
                continue
            for what, value in turn.items():
                seconds[side].setdefault(what, []).append(value)
            backend.observe(side, engines[side], request.middle(0))
    return {side: {what: 1.0 / np.array(s) for what, s in found.items()} for side, found in seconds.items()}, first


def _sides(
    engines: Mapping[str, Model], rates: Mapping[str, Mapping[What, np.ndarray]], first: Mapping[str, float],
    request: Request, backend: Backend,
) -> dict[str, Side]:  # fmt: skip
    found = {}
    for side, engine in engines.items():
        decode = {
            depth: _decode(engine, backend, request.middle(depth), per_second)
            for depth, per_second in rates[side].items()
            if isinstance(depth, int) and depth != PREFILL
        }
        prefill, kernels = request.prompt * rates[side][PREFILL], backend.kernels(side, engine, request.middle(0))
        spread = float(prefill.min()), float(prefill.max())
        wide = {
            kind: {w[1]: _rate(w[1] * n) for w, n in rates[side].items() if isinstance(w, tuple) and w[0] == kind}
            for kind in (PROMPT, BATCH)
        }
        found[side] = Side(
            float(np.median(prefill)), decode, tuple(kernels), spread, engine.load_s, first[side], wide[PROMPT],
            wide[BATCH],
        )  # fmt: skip
    return found


def _rate(tok_s: np.ndarray) -> Rate:
    return Rate(float(np.median(tok_s)), (float(tok_s.min()), float(tok_s.max())))


def _decode(engine: Model, backend: Backend, position: int, rates: np.ndarray) -> Decode:
    kernels, size = backend.token(engine, position)
    return Decode(float(np.median(rates)), (float(rates.min()), float(rates.max())), size, kernels)


def _turn(engine: Model, request: Request, sequences: Sequences | None) -> dict[What, float]:
    """Seconds: of the prefill, by depth of a decoded token, of each prompt, and of a step of several texts."""
    ids = _prompt(engine, max(request.prompt, *request.depths, *request.prompts, SHORT, several_texts.PROMPT))
    engine.reset()
    found: dict[What, float] = {PREFILL: _seconds(engine, ids[: request.prompt], 1)}
    for tokens in request.prompts:
        engine.reset()
        found[PROMPT, tokens] = _seconds(engine, ids[:tokens], 1)
    for depth in request.depths:
        start = ids[: max(depth, SHORT)]
        engine.reset()
        found[depth] = _decode_seconds(engine, start, request.tokens) / request.tokens
    for texts in request.texts if sequences is not None else ():
        assert sequences is not None
        prompt = ids[: several_texts.PROMPT]
        found[BATCH, texts] = several_texts.seconds(sequences, texts, prompt) / several_texts.TOKENS
    return found


def _seconds(engine: Model, prompt: list[int], tokens: int) -> float:
    """Until the last of `tokens` tokens has been read."""
    start = clock()
    _read(engine.generate_tokens(prompt, tokens, Sampler(), ignore_end=True), tokens)
    return clock() - start


def _decode_seconds(engine: Model, prompt: list[int], tokens: int) -> float:
    """Of `tokens` tokens after the first one, which waits for the prompt: a step each."""
    stream = engine.generate_tokens(prompt, 1 + tokens, Sampler(), ignore_end=True)
    _read(islice(stream, 1), 1)
    start = clock()
    _read(stream, tokens)
    return clock() - start


def _read(stream: Iterable[int], tokens: int) -> None:
    """Raises ModelError unless so many come."""
    if (done := sum(1 for _ in stream)) != tokens:
        raise ModelError(f"{done} tokens came instead of {tokens}; ask for fewer")


def _prompt(engine: Model, count: int) -> list[int]:
    ids = engine.tokenizer.encode(PROMPT_TEXT) or [0]
    return (ids * (count // len(ids) + 1))[:count]
