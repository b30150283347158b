"""How fast a model runs on a GPU, untuned against tuned: one of the places that know both the tuner and the engine.

Both engines are loaded and take turns, unless memory holds only one of them. Decoding is timed as a user gets it: from
the call to the last token, each of them sampled and read by Python.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import model
from autotune.benchmarking import token_time
from autotune.benchmarking.token_time import work_bytes
from autotune.runner import ceilings
from autotune.runner.versions import versions
from kernel_templates.cuda import machine
from kernel_templates.cuda.launch import Launch
from model.engine import Model
from model.errors import ModelError
from model.problems import contexts
from model.sampling import Sampler
from tuning_db import TuningDB

SIDES = ("untuned", "tuned")
PROMPT_TEXT = "The quick brown fox jumps over the lazy dog while seven wise owls watch from the old oak tree. "
SHORT = 1  # tokens of the prompt that decoding from an empty context starts with
RESERVE = 4 << 30  # of the memory: caches, prefill, CUDA itself
clock = time.perf_counter


def bench(
    path: str | Path, db: TuningDB, device: str, *, prompt: int = 2048, tokens: int = 128, runs: int = 5,
    depths: tuple[int, ...] = (0, 4096), nvtx: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Prefill of `prompt` tokens, and decoding of `tokens` from each depth (cached tokens before them).

    Medians of `runs`. JSON-able: model, device, versions, settings, sources; for each side prefill_tok_s and decode, by
    depth tok_s, tok_s_range, kernels_per_token, bytes_per_token, gb_s, share of the read bandwidth; operations, for
    each side the rows of `token_time.profile`. Depths past what the model was trained for are left out. Raises
    ModelError and kernel_templates.cuda.machine.DeviceError.
    """
    index = machine.index_of(device)
    here = machine.detect(index)
    read = ceilings.known_or_measured(db, here, index=index)["read_gb_s"]
    together = Path(path).stat().st_size * 3 + RESERVE < torch.cuda.mem_get_info(index)[0]
    asked = _Asked(prompt, tokens, runs, tuple(sorted(set(depths))))
    report: dict[str, Any] = {
        "model": Path(path).name,
        "device": {"chip": here.chip, "fingerprint": here.fingerprint, "read_gb_s": read},
        "versions": versions() | dict(here.versions),
        "settings": {"prompt": prompt, "tokens": tokens, "runs": runs, "alternating": together, "nvtx": nvtx},
        "operations": {},
    }
    for sides in [SIDES] if together else [(side,) for side in SIDES]:
        with ExitStack() as opened:
            engines = {}
            for side in sides:
                engine = model.load(path, device, db=db, tuned=side == "tuned", context=asked.room, nvtx=nvtx)
                engines[side] = opened.enter_context(closing(engine))
            _measure(engines, asked, index, read, report)
            del engine, engines  # the memory goes with the last reference
        torch.cuda.empty_cache()
    return report


@dataclass(frozen=True)
class _Asked:
    """What is to be measured; depths in order."""

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
        """The position of the token in the middle, which stands for all."""
        return max(depth, SHORT) + self.tokens // 2

    def possible(self, context: int) -> list[int]:
        """The depths that fit a context. Raises ModelError if none does, or the prompt does not."""
        depths = [depth for depth in self.depths if self.end(depth) <= context]
        if not depths or self.prompt + 1 > context:
            need = max(self.prompt + 1, self.end(self.depths[0]))
            raise ModelError(f"this needs a context of {need} tokens and the model has {context}; ask for fewer")
        return depths


def _measure(engines: Mapping[str, Model], asked: _Asked, index: int, read: float, report: dict[str, Any]) -> None:
    """Measure these sides in turn and put the results into the report."""
    depths = asked.possible(next(iter(engines.values())).context)
    seconds: dict[str, dict[str, list[float]]] = {side: {} for side in engines}
    for number in range(-1, asked.runs):  # the first turn warms up: graphs are captured when first needed
        for side, engine in engines.items():
            for name, value in _turn(engine, asked, depths).items():
                if number >= 0:
                    seconds[side].setdefault(name, []).append(value)
    for side, engine in engines.items():
        rates = {name: 1.0 / np.array(values) for name, values in seconds[side].items()}
        report[side] = {
            "prefill_tok_s": asked.prompt * float(np.median(rates["prefill"])),
            "decode": {
                str(depth): _decode_row(engine, asked, depth, rates[f"decode {depth}"], read) for depth in depths
            },
        }
        if side == "tuned":
            report["sources"] = {p.key: c.source.value for p, c in engine.choices.items()}
    for side, engine in engines.items():  # last: it spoils the caches
        report["operations"][side] = _operations(engine, asked.middle(0), index, read)


def _turn(engine: Model, asked: _Asked, depths: list[int]) -> dict[str, float]:
    """Seconds: "prefill", and "decode DEPTH" a token."""
    ids = _prompt(engine, max(asked.prompt, *depths, SHORT))
    engine.reset()
    found = {"prefill": _seconds(engine, ids[: asked.prompt], 1)}
    for depth in depths:
        start = ids[: max(depth, SHORT)]
        engine.reset()
        _seconds(engine, start, 1)
        # The cache now holds all but the last token of the prompt: as many steps as tokens are timed.
        found[f"decode {depth}"] = _seconds(engine, start, asked.tokens) / asked.tokens
    return found


def _seconds(engine: Model, prompt: list[int], tokens: int) -> float:
    """Until the last of `tokens` tokens has been read."""
    start = clock()
    done = sum(1 for _ in engine.generate_tokens(prompt, tokens, Sampler(), ignore_end=True))
    seconds = clock() - start
    if done != tokens:
        raise ModelError(f"{done} tokens came instead of {tokens}; ask for fewer")
    return seconds


def _decode_row(engine: Model, asked: _Asked, depth: int, rates: np.ndarray, read: float) -> dict[str, Any]:
    position = asked.middle(depth)
    rate, size = float(np.median(rates)), token_bytes(engine, position)
    return {
        "tok_s": rate, "tok_s_range": [float(rates.min()), float(rates.max())],
        "kernels_per_token": len(_token(engine, _bound(engine, position))),
        "bytes_per_token": size, "gb_s": size * rate / 1e9, "share": size * rate / 1e9 / read,
    }  # fmt: skip


def token_bytes(engine: Model, position: int) -> int:
    """What a token at `position` must read and write: weights, the cached positions, the logits."""
    loaded = engine.decoder.model
    layers = sum(work_bytes(replace(layer.problem, context=position + 1)) for layer in loaded.layers)
    return layers + work_bytes(loaded.head)


def _operations(engine: Model, position: int, index: int, read: float) -> list[dict[str, Any]]:
    """Rows of `token_time.profile` for a token at `position`, or before the end of its kernels' context."""
    decoder, bound = engine.decoder, _bound(engine, position)
    position = max(0, min(position, min(bound, decoder.context) - token_time.REPLAYS - 1))  # a replay moves it by 1

    def rewind() -> None:
        decoder.buffers["position"].fill_(position)

    rewind()
    watch = token_time.Stopwatch(index, decoder.executor.target)
    launches = _token(engine, bound)
    sizes = token_time.bytes_by_kernel(launches, decoder.model, position)
    return token_time.profile(launches, sizes, watch, rewind, read)


def _token(engine: Model, bound: int) -> list[Launch]:
    """The kernels of one greedy token at a position below `bound`."""
    return [launch for part in ("layers", "head", "greedy") for launch in engine.decoder.launches(part, bound)]


def _bound(engine: Model, position: int) -> int:
    """Which context's kernels a token at `position` runs."""
    return next(c for c in contexts(engine.decoder.context) if position < c)


def _prompt(engine: Model, count: int) -> list[int]:
    ids = engine.tokenizer.encode(PROMPT_TEXT) or [0]
    return (ids * (count // len(ids) + 1))[:count]
