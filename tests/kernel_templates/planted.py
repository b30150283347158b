"""Mistakes that a proof has to refuse: planted in the weights that a kernel is given, in the kernel that runs, or in
what it has written."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from kernel_templates import float64, formats
from kernel_templates.operation import Inputs, Weight
from kernel_templates.problem import Problem

HEAD_OUTPUTS = {"attention": ("out",), "paged_attention": ("out",), "norm_qkv_rope": ("qkv",)}


def wrong_weights(inputs: Inputs) -> Iterator[tuple[str, dict[str, Weight]]]:
    """(what is wrong, weights): one column dropped, one block's scale doubled, the last row that of another."""
    x = inputs.buffers.get("x", np.zeros(1, np.float32)) * inputs.buffers.get("norm", np.float32(1.0))
    for name, weight in inputs.weights.items():
        form = formats.get(weight.format)
        values = form.dequantize(weight.raw)
        dropped = values.clone()
        size = np.abs(gated(inputs) if name == "down" else x[: weight.cols])
        dropped[:, int(np.argmin(np.abs(size - np.median(size)))) if size.size == weight.cols else 1] = 0
        scaled = values.clone()
        # K-norm's weights differ a thousandfold: what they make small is small in the outputs, wrong or not.
        row = int(np.argmax(inputs.buffers["k_norm"])) if name == "k" else weight.rows // 2
        scaled[row, : max(form.block, 32)] *= 2
        moved = weight.raw.clone()
        moved[-1] = moved[0]
        for what, raw in (
            ("a column dropped", form.quantize(dropped)), ("a block's scale", form.quantize(scaled)),
            ("the last row", moved),
        ):  # fmt: skip
            if form.block == 1 and "scale" in what:
                continue
            # Quantizing twice may change other blocks a little: only what differs by more than that is the mistake.
            same = (form.dequantize(raw) - values).abs() < 1e-6
            rows = (~same).any(-1)
            kept = torch.where(rows[:, None], raw, weight.raw)
            yield f"{what} of {name}", {**inputs.weights, name: replace(weight, raw=kept)}


def gated(inputs: Inputs) -> np.ndarray:
    """What a feed-forward network's last matrix reads: float64 [ffn]."""
    gate, b = inputs.weights["gate"], inputs.buffers
    n = float64.rms_norm(b["x"][: gate.cols], b["norm"][: gate.cols], b["eps"][0])
    return float64.silu(float64.product(gate, n)) * float64.product(inputs.weights["up"], n)


def wrong_traits(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """(what is wrong, the problem that a kernel with this mistake would solve): a window of one position too many or
    too few or none at all, no soft cap, the usual scale, no sinks, no bias, no post norm, another gate function."""
    wrong: dict[str, tuple[int | None, ...]] = {"window": (1, -1, None)}
    wrong |= dict.fromkeys(("softcap", "scale", "sinks", "bias", "post_norm"), (None,))
    for name, values in wrong.items():
        value = getattr(problem, name, 0)
        for change in values if value else ():
            yield f"{name} {change}", replace(problem, **{name: 0 if change is None else value + change})
    for name in ("gate_function", "gate"):
        if getattr(problem, name, "silu") == "gelu":
            yield "silu for gelu", replace(problem, **{name: "silu"})


def wrong_bias(problem: Problem, inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """(what is wrong, inputs): the bias of one head left out, of queries, keys and values."""
    for head in range(problem.heads + 2 * problem.kv_heads):
        bias = inputs.buffers["bias"].copy()
        bias[head * problem.head_dim : (head + 1) * problem.head_dim] = 0
        yield f"the bias of head {head}", replace(inputs, buffers={**inputs.buffers, "bias": bias})


def wrong_norms(inputs: Inputs) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what is wrong, buffers): the last row's weight of the post norm taken from the row before."""
    if "post_norm" in inputs.buffers:
        norm, rows = inputs.buffers["post_norm"].copy(), int(np.count_nonzero(inputs.buffers["post_norm"]))
        norm[rows - 1] = norm[rows - 2]
        yield "the last row of the post norm", {**inputs.buffers, "post_norm": norm}


def wrong_rows(inputs: Inputs) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what is wrong, buffers) of an operation over a cache in pages: a text that reads another's pages or has two of
    its own exchanged, rows that see one position too few, or what the first row of their text sees."""
    b = inputs.buffers
    if "slots" not in b:
        return
    swapped = b["slots"].copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    yield "two pages exchanged", {**b, "slots": swapped}
    if len(swapped) > 1:
        yield "another text's pages", {**b, "sequences": np.roll(b["sequences"], len(b["sequences"]) // len(swapped))}
    yield "one position too few", {**b, "positions": b["positions"] - 1}
    for text in np.unique(b["sequences"]):
        rows = b["sequences"] == text
        if rows.sum() > 1:
            alike = b["positions"].copy()
            alike[rows] = alike[rows].min()
            yield f"no row of text {text} sees those before it", {**b, "positions": alike}


def wrong_outputs(
    problem: Problem, written: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what is wrong, outputs): one head that is another's, the last row of a tile never added to."""
    for name in expected:
        size = np.asarray(expected[name]).size
        if name in ("keys", "values"):
            continue
        last = np.array(written[name], copy=True).reshape(-1)
        last[size - 1] += 1.0 + np.abs(last[:size]).max() / 2
        yield f"the last row of {name}", {**written, name: last}
        if name in HEAD_OUTPUTS.get(problem.op, ()):
            heads = np.array(written[name], copy=True).reshape(-1)
            dim = problem.head_dim
            heads[:dim] = heads[size - dim : size]  # of other keys: those of one key are alike at the first position
            yield f"the first head of {name}", {**written, name: heads}
