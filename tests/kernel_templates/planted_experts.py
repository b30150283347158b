"""Mistakes of products with experts' matrices (`planted` has those of every operation)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from kernel_templates import formats
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.moe import reference as moe
from kernel_templates.moe.problem import Moe
from kernel_templates.operation import Inputs, Weight


def wrong_inputs(problem: Moe | GroupedMatmul, given: Inputs) -> Iterator[tuple[str, Inputs]]:
    """(what is wrong, what a kernel with this mistake reads): an expert that is another or lacks a part, in turn of
    every matrix; other rows' experts or biases."""
    if isinstance(problem, Moe):
        chosen = moe.outputs(problem, given)["expert_ids"]
        other = next((e for e in range(problem.experts) if e not in chosen), None)
        expert, rows = int(chosen[0]), {"gate": problem.ffn, "up": problem.ffn, "down": problem.hidden}
        gated = moe.outputs(problem, given)["gated"][: problem.ffn]
        x = given.buffers["x"][: problem.hidden] * given.buffers["norm"][: problem.hidden]
        read, told = {"gate": x, "up": x, "down": gated}, int(np.abs(gated).argmax())
        yield from _router(given, expert, other)
    else:
        ids = given.buffers["expert_ids"]
        expert, other, rows = int(ids[-1]), next(iter({*range(problem.experts)} - {int(ids[-1])}), None), {}
        rows["w"], told = problem.outputs, 1
        read = {"w": given.buffers["x"][: problem.pairs // problem.share * problem.cols][-problem.cols :]}
        rolled = np.roll(ids, 1)
        if (rolled != ids).any():
            yield "experts of the pairs before", _with(given, {"expert_ids": rolled})
    for name, count in rows.items():
        for what, weight in _wrong_matrices(given.weights[name], expert, other, count, _usual(read[name]), told):
            yield f"{what} of {name}", replace(given, weights={**given.weights, name: weight})
        bias = "gate_bias" if name == "w" else f"{name}_bias"
        if bias in given.buffers:
            less = given.buffers[bias].copy()
            less[expert * count : (expert + 1) * count] = 0
            yield f"no {bias} of an expert", _with(given, {bias: less})
    for name in (name for name in ("shared_gate", "shared_up", "shared_down") if name in given.weights):
        zero = replace(given.weights[name], raw=torch.zeros_like(given.weights[name].raw), repeats=None)
        yield f"nothing of {name}", replace(given, weights={**given.weights, name: zero})


def wrong_traits(problem: Moe | GroupedMatmul) -> Iterator[tuple[str, Moe | GroupedMatmul]]:
    """(what is wrong, the problem that a kernel with this mistake would solve), of traits that leave inputs alike."""
    if isinstance(problem, GroupedMatmul):
        if problem.gate:
            yield "another gate", replace(problem, gate="gelu" if problem.gate == "silu" else "silu")
        return
    if problem.routing != "softmax_of_chosen":  # whose weights have the sum 1
        yield "weights that are not normalized, or are", replace(problem, normalized=1 - problem.normalized)
    yield "a scale", replace(problem, scale=problem.scale * 1.01)
    yield "another gate", replace(problem, gate_function="gelu" if problem.gate_function == "silu" else "silu")
    yield "another routing", replace(problem, routing="sigmoid" if problem.routing != "sigmoid" else "softmax")
    if problem.shared_gated:
        yield "the shared expert's weight", replace(problem, shared_gated=0)


def wrong_outputs(problem: Moe, written: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(what is wrong, outputs): two experts exchanged in one of the lists only."""
    if problem.used > 1:
        for name in ("expert_ids", "expert_weights"):
            turned = written[name].copy()
            turned[: problem.used] = np.roll(turned[: problem.used], 1)
            yield f"{name} in another order", {**written, name: turned}


def _router(given: Inputs, expert: int, other: int | None) -> Iterator[tuple[str, Inputs]]:
    router = given.weights["router"]
    if other is not None:
        raw = router.raw.clone()
        raw[[expert, other]] = raw[[other, expert]]
        yield "another expert is chosen", replace(given, weights={**given.weights, "router": replace(router, raw=raw)})
    if "router_bias" in given.buffers:
        yield "no router_bias", _with(given, {"router_bias": np.zeros_like(given.buffers["router_bias"])})


def _usual(values: np.ndarray) -> int:
    """The place of a value of median size: what is multiplied with it shows."""
    return int(np.argsort(np.abs(values))[len(values) // 2])


def _wrong_matrices(
    weight: Weight, expert: int, other: int | None, rows: int, column: int, row: int
) -> Iterator[tuple[str, Weight]]:
    """Of one expert's `rows` rows: those of another, the last one that of the first; a column dropped, a row's block
    scaled."""
    form, own = formats.get(weight.format), slice(expert * rows, (expert + 1) * rows)
    wrong = []
    if other is not None:
        wrong.append(("another expert", weight.raw[other * rows : (other + 1) * rows]))
    wrong.append(("the last row", torch.cat([weight.raw[own][:-1], weight.raw[own][:1]])))
    values = form.dequantize(weight.raw[own])
    dropped, scaled = values.clone(), values.clone()
    dropped[:, column] = 0
    wrong.append(("a column", form.quantize(dropped)))
    if form.block > 1:
        scaled[row, : max(form.block, 32)] *= 2
        raw = weight.raw[own].clone()
        raw[row] = form.quantize(scaled)[row]
        wrong.append(("a block's scale", raw))
    for what, part in wrong:
        raw = weight.raw.clone()
        raw[own] = part
        yield what, replace(weight, raw=raw, repeats=None)


def _with(given: Inputs, buffers: dict[str, np.ndarray]) -> Inputs:
    return replace(given, buffers={**given.buffers, **buffers})
