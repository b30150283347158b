"""Mistakes of gated delta nets (`planted` has those of every operation)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.operation import Inputs


def wrong_inputs(problem: GatedDelta, given: Inputs) -> Iterator[tuple[str, Inputs]]:
    """(what is wrong, what a kernel with this mistake reads): taps in the other order or one too few, a head's decay
    or step of the next, nothing of the state, of a part of the projections or of the last norm's weight; other texts'
    states, rows at other positions."""
    b, heads, dim = given.buffers, problem.heads, problem.head_dim
    conv = b["conv"][: problem.kernel * problem.channels].reshape(problem.kernel, -1)
    yield "taps in the other order", _with(given, conv=conv[::-1].ravel())
    yield "no oldest tap", _with(given, conv=np.concatenate([0 * conv[:1], conv[1:]]).ravel())
    for name in ("decay", "dt_bias"):
        if heads > 1:
            yield f"{name} of the next head", _with(given, **{name: np.roll(b[name][:heads], 1)})
    norm = b["norm"].copy()
    norm[dim - 1] = 0
    yield "no last norm", _with(given, norm=norm)
    yield "no state", _with(given, state=0 * b["state"])
    yield "the state of the next column", _with(given, state=np.roll(b["state"], 1, -1))
    yield "no convolution's state", _with(given, conv_state=0 * b["conv_state"])
    parts = {
        "q": (0, problem.key_size), "k": (problem.key_size, problem.key_size),
        "v": (2 * problem.key_size, problem.value_size), "z": (problem.channels, problem.value_size),
        "beta": (problem.channels + problem.value_size, heads),
        "alpha": (problem.channels + problem.value_size + heads, heads),
    }  # fmt: skip
    rows = b["projected"][: problem.rows * problem.projected_size].reshape(problem.rows, -1)
    for name, (start, count) in parts.items():
        wrong = rows.copy()
        own = wrong[-1, start : start + count]
        own[:] = np.roll(own, 1) if count > 1 else own + 1
        yield f"{name} of the element before", _with(given, projected=wrong.ravel())
    if problem.rows == 1:
        yield "a position too few", _with(given, position=b["position"] - 1)
        return
    yield "positions too few", _with(given, positions=b["positions"] - 1)
    if problem.sequences > 1:
        yield "another text's state", _with(given, sequences=np.roll(b["sequences"], problem.tokens))


def wrong_outputs(problem: GatedDelta, written: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what is wrong, outputs): a head's output or state that is another's, a state that was not written."""
    if problem.heads > 1:
        out = written["out"].copy()
        out[: problem.head_dim] = out[problem.head_dim : 2 * problem.head_dim]
        yield "the first head's output", {**written, "out": out}
        state = written["state"].copy().reshape(problem.sequences, problem.heads, -1)
        state[-1, -1] = state[-1, 0]
        yield "the last head's state", {**written, "state": state.reshape(written["state"].shape)}
    halved = {name: value.astype(np.float16).astype(np.float32) for name, value in written.items()}
    yield "rounded to float16", halved


def _with(given: Inputs, **buffers: np.ndarray) -> Inputs:
    return replace(given, buffers={**given.buffers, **buffers})
