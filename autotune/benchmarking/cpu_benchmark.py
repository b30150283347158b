"""How fast a model runs here, untuned against tuned: one of the places that know both the tuner and the engine.

Both engines are loaded and take turns, so a machine that drifts drifts for both; a model too large to be held twice is
measured one after the other. Memory is read by `ReadProbe` in between: rates are shares of what the machine could do.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import model
from autotune.runner.bandwidth import ReadProbe
from autotune.runner.cpu_candidate import working_set
from autotune.runner.versions import versions
from kernel_templates import registry
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import machine
from kernel_templates.problem import Problem
from model.engine import Model
from model.errors import ModelError
from model.problems import head_problem, layer_problems, model_problems
from model.sampling import Sampler
from tuning_db import TuningDB

SIDES = ("untuned", "tuned")
PROMPT_TEXT = "The quick brown fox jumps over the lazy dog while seven wise owls watch from the old oak tree. "
SHORT = 8  # tokens of the prompt that decoding starts from


def bench(
    path: str | Path, db: TuningDB, device: str = "cpu", *, prompt: int = 512, tokens: int = 128, runs: int = 5
) -> dict[str, Any]:
    """Prefill of `prompt` tokens and decoding of `tokens`, medians of `runs`, and where a token's time goes.

    JSON-able: model, device, versions, untuned and tuned (prefill_tok_s, decode_tok_s, bytes_per_token, gb_s, share of
    the read bandwidth measured meanwhile) and operations. Raises ModelError.
    """
    here = machine.detect()
    together = Path(path).stat().st_size * 3 < psutil.virtual_memory().available
    results: dict[str, dict[str, list[float]]] = {s: {"prefill": [], "decode": [], "read": []} for s in SIDES}
    steps: dict[str, dict[Problem, list[float]]] = {s: {} for s in SIDES}
    counts: Mapping[Problem, int] = {}

    def turn(side: str, engine: Model) -> None:
        if room > engine.decoder.context:
            most = engine.decoder.context
            raise ModelError(f"this needs a context of {room} tokens and the model has {most}; ask for fewer")
        ids = _prompt(engine, prompt)
        probe = ReadProbe(engine.decoder.team, working_set())
        results[side]["read"].append(probe.nbytes / probe.seconds() / 1e9)
        results[side]["prefill"].append(len(ids) / _prefill_s(engine, ids))
        results[side]["decode"].append(1.0 / _decode_s(engine, ids[:SHORT], tokens))
        for problem, nanoseconds in _step_times(engine, SHORT + tokens // 2).items():
            steps[side].setdefault(problem, []).append(nanoseconds)

    prompt = max(prompt, SHORT)
    room = max(prompt, SHORT + tokens) + 8
    engines = {side: _load(path, device, db, side, room) for side in SIDES} if together else {}
    try:
        for side, engine in engines.items():
            turn(side, engine)  # warms up: torch's first products take longer
        results = {s: {name: [] for name in results[s]} for s in SIDES}
        steps = {s: {} for s in SIDES}
        for group in [SIDES] * runs if together else [(side,) * runs for side in SIDES]:
            for side in group:
                if not together and side not in engines:
                    while engines:  # only then is there room for the other
                        engines.popitem()[1].close()
                    engines = {side: _load(path, device, db, side, room)}
                turn(side, engines[side])
        one = next(iter(engines.values()))
        counts = model_problems(one.config, one.file)
        sources = {p.key: c.source.value for p, c in engines["tuned"].choices.items()}
    finally:
        for engine in engines.values():
            engine.close()

    read = float(np.median(results["untuned"]["read"] + results["tuned"]["read"]))
    token_bytes = sum(_work_at(p, SHORT + tokens // 2).bytes * count for p, count in counts.items())
    report: dict[str, Any] = {
        "model": Path(path).name,
        "device": {"chip": here.chip, "threads": here.units, "fingerprint": here.fingerprint, "read_gb_s": read},
        "versions": versions(),
        "settings": {"prompt": prompt, "tokens": tokens, "runs": runs, "alternating": together},
        "sources": sources,
    }
    for side in SIDES:
        decode = float(np.median(results[side]["decode"]))
        report[side] = {
            "prefill_tok_s": float(np.median(results[side]["prefill"])),
            "decode_tok_s": decode,
            "bytes_per_token": token_bytes,
            "gb_s": token_bytes * decode / 1e9,
            "share": token_bytes * decode / 1e9 / read,
        }
    report["operations"] = [_operation(p, count, steps, SHORT + tokens // 2, read) for p, count in counts.items()]
    return report


def _load(path, device: str, db: TuningDB, side: str, room: int) -> Model:
    return model.load(path, device, db=db, tuned=side == "tuned", context=room)


def _prompt(engine: Model, count: int) -> list[int]:
    ids = engine.tokenizer.encode(PROMPT_TEXT) or [0]
    return (ids * (count // len(ids) + 1))[:count]


def _prefill_s(engine: Model, ids: list[int]) -> float:
    start = time.perf_counter()
    engine.decoder.predict(engine.prefill.run(ids, 0)[0], len(ids) - 1)
    return time.perf_counter() - start


def _decode_s(engine: Model, ids: list[int], tokens: int) -> float:
    """Seconds a token, sampling included, as a user gets them. Every run generates exactly `tokens` tokens."""
    engine.reset()
    generated = engine.generate_tokens(ids, tokens + 1, Sampler(), ignore_end=True)
    next(generated)  # the first token belongs to the prompt's time
    start = time.perf_counter()
    done = sum(1 for _ in generated)
    return (time.perf_counter() - start) / done


def _step_times(engine: Model, position: int, replays: int = 5) -> dict[Problem, float]:
    """Median nanoseconds of each problem's calls inside a token, averaged over its layers."""
    decoder = engine.decoder
    decoder.prepare(0, position)
    times = np.median([decoder.graph.replay_timed() for _ in range(replays)], axis=0)
    problems = [p for i in range(engine.config.layers) for p in layer_problems(engine.config, engine.file, i).values()]
    problems.append(head_problem(engine.config, engine.file))
    found: dict[Problem, list[float]] = {}
    for problem, nanoseconds in zip(problems, times[1:], strict=True):  # step 0 is the embedding
        found.setdefault(problem, []).append(float(nanoseconds))
    return {p: float(np.mean(t)) for p, t in found.items()}


def _work_at(problem: Problem, position: int):
    if isinstance(problem, Attention):
        problem = replace(problem, context=position + 1)
    return registry.get(problem.op).work(problem)


def _operation(problem: Problem, count: int, steps, position: int, read: float) -> dict[str, Any]:
    default, tuned = (float(np.median(steps[side][problem])) for side in SIDES)
    gb_s = _work_at(problem, position).bytes / tuned
    return {
        "op": problem.op, "problem": problem.key, "count": count, "default_us": default / 1e3, "tuned_us": tuned / 1e3,
        "gb_s": gb_s, "share": gb_s / read,
    }  # fmt: skip
