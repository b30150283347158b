"""Benchmarks a model on a device, untuned against tuned: prefill, decoding, and where a token's time goes.

One of the places that know both the tuner and the engine. Both engines are loaded and take turns, so that a machine
that drifts drifts for both; where memory holds only one, they are measured one after the other. Decoding is timed as a
user gets it: from the call to the last token, each of them sampled and read by Python.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

import model
from autotune.benchmarking.benchmark_result import PREFILL, SIDES, Decode, KernelTime, ModelBenchmark, Side
from autotune.benchmarking.speedup import Speedup
from autotune.runner.versions import versions
from kernel_templates.device import Device
from model.engine import Model, parse_device
from model.errors import ModelError
from model.sampling import Sampler
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
    CAPTURED_ALONE: bool
    """Whether `kernels` are timed by themselves; if not, inside the token."""
    device: Device

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
    """A request for measurements. depths: cached tokens to decode after, in order."""

    prompt: int
    tokens: int
    runs: int
    depths: tuple[int, ...]

    @property
    def room(self) -> int:
        """Positions of the cache that all of it needs."""
        return max(self.prompt + 1, *(self.end(depth) for depth in self.depths))

    def end(self, depth: int) -> int:
        return max(depth, SHORT) + self.tokens

    def middle(self, depth: int) -> int:
        """The position of the token in the middle."""
        return max(depth, SHORT) + self.tokens // 2

    def within(self, context: int) -> "Request":
        """With the depths that fit a context. Raises ModelError if none does, or the prompt does not."""
        depths = tuple(depth for depth in self.depths if self.end(depth) <= context)
        if not depths or self.prompt + 1 > context:
            need = max(self.prompt + 1, self.end(self.depths[0]))
            raise ModelError(f"this needs a context of {need} tokens and the model has {context}; ask for fewer")
        return Request(self.prompt, self.tokens, self.runs, depths)


def benchmark(
    path: str | Path, db: TuningDB, device: str, *, prompt: int | None = None, tokens: int = 128, runs: int = 5,
    depths: tuple[int, ...] = (), nvtx: bool = False, progress: Callable[[str], None] = lambda step: None,
) -> ModelBenchmark:  # fmt: skip
    """Prefill of `prompt` tokens, and decoding of `tokens` from each depth; rates are medians of `runs`.

    progress: is told in words what is done next. Without a prompt or depths, the backend's defaults. Depths past what
    the model was trained for are left out. Raises ModelError and kernel_templates.cuda.machine.DeviceError.
    """
    kind, index = parse_device(device)
    backend: Backend = importlib.import_module(BACKENDS[kind]).open_backend(db, index)
    request = Request(prompt or backend.PROMPT, tokens, runs, tuple(sorted(set(depths or backend.DEPTHS))))
    together = backend.holds_both(Path(path).stat().st_size)
    measured: dict[str, Side] = {}
    rates: dict[str, dict[int, np.ndarray]] = {}
    sources: dict[str, str] = {}
    for sides in [SIDES] if together else [(side,) for side in SIDES]:
        with ExitStack() as opened:
            engines = {}
            for side in sides:
                progress(f"loading the {side} engine")
                engine = model.load(path, device, db=db, tuned=side == "tuned", context=request.room, nvtx=nvtx)
                engines[side] = opened.enter_context(closing(engine))
            found, first = _rates(engines, request, backend, progress)
            rates |= found
            progress("the kernels of a token")
            measured |= _sides(engines, found, first, request, backend)
            if "tuned" in engines:
                sources = {p.key: c.source.value for p, c in engines["tuned"].choices.items()}
            del engine, engines  # the memory goes with the last reference
        backend.release()
    settings = {
        "prompt": request.prompt, "tokens": tokens, "runs": runs, "alternating": together, "nvtx": nvtx,
        "captured_alone": backend.CAPTURED_ALONE, "cache_bytes": backend.cache_bytes(),
    }  # fmt: skip
    before, after = rates["untuned"], rates["tuned"]
    speedups = {what: Speedup.of(before[what].tolist(), after[what].tolist(), together) for what in before}
    return ModelBenchmark(
        Path(path).name, backend.device.chip, backend.device.fingerprint, backend.read_gb_s(),
        measured["untuned"], measured["tuned"], versions() | dict(backend.device.versions), settings, sources,
        speedups,
    )  # fmt: skip


def _rates(
    engines: Mapping[str, Model], request: Request, backend: Backend, progress: Callable[[str], None]
) -> tuple[dict[str, dict[int, np.ndarray]], dict[str, float]]:
    """Runs a second of each side, in turn: of a decoded token by depth, and of the whole prefill. And the seconds from
    the beginning of each side's loading to the end of its first prefill, without what was between them."""
    request = request.within(next(iter(engines.values())).context)
    seconds: dict[str, dict[int, list[float]]] = {side: {} for side in engines}
    first: dict[str, float] = {}
    for number in range(-1, request.runs):  # the first turn warms up: graphs are captured when first needed
        for side in list(engines)[:: 1 if number % 2 else -1]:
            progress(f"{side}, {f'round {number + 1} of {request.runs}' if number >= 0 else 'warming up'}")
            turn = _turn(engines[side], request)
            if number < 0:
                first[side] = engines[side].load_s + turn[PREFILL]
                engines[side].runner.warm_up()
                continue
            for what, value in turn.items():
                seconds[side].setdefault(what, []).append(value)
            backend.observe(side, engines[side], request.middle(0))
    return {side: {what: 1.0 / np.array(s) for what, s in found.items()} for side, found in seconds.items()}, first


def _sides(
    engines: Mapping[str, Model], rates: Mapping[str, Mapping[int, np.ndarray]], first: Mapping[str, float],
    request: Request, backend: Backend,
) -> dict[str, Side]:  # fmt: skip
    found = {}
    for side, engine in engines.items():
        decode = {
            depth: _decode(engine, backend, request.middle(depth), per_second)
            for depth, per_second in rates[side].items()
            if depth != PREFILL
        }
        prefill, kernels = request.prompt * rates[side][PREFILL], backend.kernels(side, engine, request.middle(0))
        spread = float(prefill.min()), float(prefill.max())
        found[side] = Side(float(np.median(prefill)), decode, tuple(kernels), spread, engine.load_s, first[side])
    return found


def _decode(engine: Model, backend: Backend, position: int, rates: np.ndarray) -> Decode:
    kernels, size = backend.token(engine, position)
    return Decode(float(np.median(rates)), (float(rates.min()), float(rates.max())), size, kernels)


def _turn(engine: Model, request: Request) -> dict[int, float]:
    """Seconds: of the prefill, and by depth of a decoded token."""
    ids = _prompt(engine, max(request.prompt, *request.depths, SHORT))
    engine.reset()
    found = {PREFILL: _seconds(engine, ids[: request.prompt], 1)}
    for depth in request.depths:
        start = ids[: max(depth, SHORT)]
        engine.reset()
        _seconds(engine, start, 1)
        # The cache now holds all but the last token of the prompt: as many steps as tokens are timed.
        found[depth] = _seconds(engine, start, request.tokens) / request.tokens
    return found


def _seconds(engine: Model, prompt: list[int], tokens: int) -> float:
    """Until the last of `tokens` tokens has been read."""
    start = clock()
    done = sum(1 for _ in engine.generate_tokens(prompt, tokens, Sampler(), ignore_end=True))
    seconds = clock() - start
    if done != tokens:
        raise ModelError(f"{done} tokens came instead of {tokens}; ask for fewer")
    return seconds


def _prompt(engine: Model, count: int) -> list[int]:
    ids = engine.tokenizer.encode(PROMPT_TEXT) or [0]
    return (ids * (count // len(ids) + 1))[:count]
