"""Our side of a comparison: the engine, through its public functions, answering requests of scripts/peer/child.py."""

import time
from importlib.metadata import version
from typing import Any

import numpy as np
from protocol import serve

import model
from model.engine import Model
from model.sampling import Sampler
from tuning_db import open_db

opened: dict[str, Model] = {}


def open_model(
    path: str, threads: int, context: int, db: str | None, tuned: bool = True, device: str = "cpu"
) -> dict[str, Any]:
    """Load the model and say where each kernel's configuration came from, and what a token reads."""
    with open_db(db, readonly=True) as database:
        engine = model.load(path, device, context=context, threads=threads, db=database, tuned=tuned)
    engine.tokenizer.end_tokens = frozenset()  # every run makes as many tokens as were asked for
    opened["model"] = engine
    kernels = [{"problem": p.key, "source": c.source.name.lower()} for p, c in engine.choices.items()]
    names = ("numpy", "numba", "llvmlite", "torch")
    return {"kernels": kernels, "versions": {name: version(name) for name in names}}


def decode(prompt: list[int], tokens: int) -> dict[str, Any]:
    """Seconds of `tokens` greedy steps after the prompt: choose a token, compute the next logits, and so on."""
    engine = opened["model"]
    engine.reset()
    stream = engine.generate_tokens(prompt, tokens + 1, Sampler())
    made = [next(stream)]  # comes from the prompt's logits
    start = time.perf_counter()
    made += stream
    return {"seconds": time.perf_counter() - start, "steps": len(made) - 1, "text": made[:8]}


def prefill(tokens: list[int]) -> dict[str, Any]:
    """Seconds from an empty cache to the token after `tokens`."""
    engine = opened["model"]
    engine.reset()
    start = time.perf_counter()
    next(engine.generate_tokens(tokens, 1, Sampler()))
    return {"seconds": time.perf_counter() - start}


def greedy(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """The likeliest `tokens` tokens after each prompt, one after the other; an end token does not end it."""
    engine, found = opened["model"], []
    for prompt in prompts:
        engine.reset()
        found.append(list(engine.generate_tokens(prompt, tokens, Sampler())))
    return {"tokens": found}


def logits(tokens: list[int], stepwise: bool, out: str) -> dict[str, Any]:
    """Write float32 [tokens, vocab] to the file `out`."""
    np.save(out, opened["model"].logits(tokens, stepwise))
    return {}


if __name__ == "__main__":
    serve({"open": open_model, "decode": decode, "prefill": prefill, "greedy": greedy, "logits": logits})
