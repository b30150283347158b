"""llama.cpp in a process of its own: a crash of its library ends that process, and its threads stand still with it.

The request is one JSON line on stdin; the answer a JSON line on stdout, then logits as raw float32 rows: one a token
from decode steps, then one a token from a prompt.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

PROMPT, STEPS = 16, 32  # tokens of the decode that is timed
MOST_LOGITS = 256 << 20  # bytes of a batch's logits, for which llama.cpp makes room


class PeerError(RuntimeError):
    """llama.cpp could not do it; the message is one line."""


@dataclass(frozen=True)
class Peer:
    """An opened model. rows: gives logits, float32 [vocab], of decode steps, then of the prompt; read in order."""

    decode_tok_s: float | None
    rows: Iterator[np.ndarray]


def installed() -> bool:
    return find_spec("xllamacpp") is not None


@contextmanager
def opened(path: Path, tokens: list[int], vocab: int, threads: int) -> Iterator[Peer]:
    """llama.cpp on the processor with these tokens. Raises PeerError."""
    from autotune.runner.python_process import environment, python_command

    batch = max(min(len(tokens), MOST_LOGITS // (4 * vocab)), PROMPT)
    request = {"path": str(path), "tokens": tokens, "threads": threads, "batch": batch}
    child = subprocess.Popen(
        python_command("autotune.peer.llama_process"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    assert child.stdin and child.stdout
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.close()
        answer = json.loads(child.stdout.readline() or "{}")
        if answer.get("vocab") != vocab:
            raise PeerError(answer.get("error") or "llama.cpp ended without an answer")
        yield Peer(answer["decode_tok_s"], _rows(child.stdout, vocab))
    except BrokenPipeError:
        raise PeerError("llama.cpp ended without an answer") from None
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _rows(stream: IO[bytes], vocab: int) -> Iterator[np.ndarray]:
    while len(data := stream.read(4 * vocab)) == 4 * vocab:
        yield np.frombuffer(data, np.float32)
    if data:
        raise PeerError("llama.cpp ended in the middle of its logits")


def _serve(request: dict[str, Any], out: IO[bytes]) -> None:
    from autotune.peer import llama_session, xllamacpp_api

    tokens: list[int] = request["tokens"]
    llama_session.start(xllamacpp_api)
    context = 2 * max(len(tokens), PROMPT + STEPS)
    batch: int = request["batch"]
    session = llama_session.LlamaSession(
        xllamacpp_api, request["path"], request["threads"], context, flash_attn=False, repack=True, batch=batch
    )
    prompt = tokens[:PROMPT]
    session.decode_seconds(prompt, 4)  # warms up
    rate = STEPS / session.decode_seconds(prompt, STEPS)
    out.write(json.dumps({"vocab": session.vocab, "decode_tok_s": rate}).encode() + b"\n")
    session.reset()
    for i, token in enumerate(tokens):
        out.write(session.feed([token], i).tobytes())
    session.reset()
    for i in range(0, len(tokens), batch):
        out.write(session.feed(tokens[i : i + batch], i, every=True).tobytes())
    out.flush()


def main() -> None:
    """Answer the request on stdin. Descriptor 1 becomes stderr first: what a library prints breaks no answer."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _serve(json.loads(sys.stdin.readline()), out)
    except (RuntimeError, ImportError, OSError) as error:
        out.write(json.dumps({"error": f"llama.cpp: {error}"}).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
