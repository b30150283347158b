"""llama.cpp's side of a comparison, through its C API: no Python between it and its best speed but what our side has
too, one call and one argmax a token. Runs under the peer's Python, which has numpy, and xllamacpp or llama_cpp."""

import functools
import time
from typing import Any

import numpy as np
from protocol import serve

from autotune.peer import llama_session

try:
    import llama_cpp.llama_cpp as api

    PACKAGE = "llama-cpp-python"
except ImportError:
    from autotune.peer import xllamacpp_api as api

    PACKAGE = api.NAME

Session = functools.partial(llama_session.LlamaSession, api)
sessions: list[llama_session.LlamaSession] = []


def open_model(
    path: str, threads: int, context: int, flash_attn: bool | None = None, repack: bool = True
) -> dict[str, Any]:
    """Open the model with these settings in place of the one before; flash_attn None: llama.cpp chooses."""
    while sessions:
        sessions.pop().close()
    sessions.append(Session(path, threads, context, flash_attn, repack))
    return {}


def about() -> dict[str, Any]:
    """What was built: the package's version and the features that the library itself reports."""
    from importlib.metadata import version

    names = {PACKAGE: version(PACKAGE), "numpy": np.__version__}
    return {"versions": names, "system_info": api.llama_print_system_info().decode().strip(" |")}


def decode(prompt: list[int], tokens: int) -> dict[str, Any]:
    """Seconds of `tokens` greedy steps after the prompt: choose a token, compute the next logits, and so on."""
    session = sessions[0]
    session.reset()
    row = session.feed(prompt, 0)[0]
    made = [int(np.argmax(row))]
    start = time.perf_counter()
    for i in range(tokens):
        row = session.feed(made[-1:], len(prompt) + i)[0]
        made.append(int(np.argmax(row)))
    return {"seconds": time.perf_counter() - start, "steps": tokens, "text": made[:8]}


def greedy(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """The likeliest `tokens` tokens after each prompt, one after the other; an end token does not end it."""
    session, found = sessions[0], []
    for prompt in prompts:
        session.reset()
        made = [int(np.argmax(session.feed(prompt, 0)[0]))]
        while len(made) < tokens:
            made.append(int(np.argmax(session.feed(made[-1:], len(prompt) + len(made) - 1)[0])))
        found.append(made)
    return {"tokens": found}


def prefill(tokens: list[int]) -> dict[str, Any]:
    """Seconds from an empty cache to the token after `tokens`."""
    session = sessions[0]
    session.reset()
    start = time.perf_counter()
    int(np.argmax(session.feed(tokens, 0)[0]))
    return {"seconds": time.perf_counter() - start}


def logits(tokens: list[int], stepwise: bool, out: str) -> dict[str, Any]:
    """Write float32 [tokens, vocab] to the file `out`."""
    session = sessions[0]
    session.reset()
    if stepwise:
        found = np.concatenate([session.feed([token], i).copy() for i, token in enumerate(tokens)])
    else:
        found = session.feed(tokens, 0, every=True)
    np.save(out, found)
    return {}


if __name__ == "__main__":
    llama_session.start(api)
    handlers = {"open": open_model, "about": about, "decode": decode, "prefill": prefill, "greedy": greedy}
    serve({**handlers, "logits": logits})
