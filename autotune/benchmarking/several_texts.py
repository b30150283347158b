"""Times several texts that are decoded together: tokens a second of all of them, once every prompt has been read."""

import time
from collections.abc import Sequence

from model.errors import ModelError
from model.sampling import Sampler
from model.sequences import Sequences

PROMPT, TOKENS = 128, 128
"""Of a text, as llama.cpp's llama-batched-bench is usually asked for."""
clock = time.perf_counter


def seconds(sequences: Sequences, texts: int, prompt: Sequence[int], tokens: int = TOKENS) -> float:
    """Of `tokens` steps of so many texts, greedy, each after a prompt of its own. Steps are sent ahead as a generation
    sends them. Leaves no text. Raises ModelError when memory does not hold them all."""
    joined: list[int] = []
    in_flight = 0
    try:
        for number in range(texts):
            own = [*prompt[number % len(prompt) :], *prompt[: number % len(prompt)]]
            text = sequences.join(own, tokens + 1, Sampler())
            if text is None:
                raise ModelError(f"memory holds {number} texts of {len(prompt) + tokens} tokens, not {texts}")
            joined.append(text)
        sequences.send()
        sequences.receive()  # all prompts have been read, and a first token is there
        start, sent, received = clock(), 0, 0
        while received < tokens:
            while sent < tokens and in_flight < sequences.ahead:
                sequences.send()
                sent, in_flight = sent + 1, in_flight + 1
            in_flight -= 1
            if len(sequences.receive()) != texts:
                raise ModelError(f"a step brought tokens of fewer than {texts} texts")
            received += 1
        return clock() - start
    finally:
        for text in joined:
            sequences.leave(text)
        for _ in range(in_flight):
            sequences.receive()
