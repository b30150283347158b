"""Y = X W^T on the GPU by one of three algorithms: `library` expands W to float16 and calls cuBLAS; `thin` and `wide`
decode W in registers, between its load and a tensor core (`cuda.thin`, `cuda.wide`).

Activations are float16, in the order of columns that the algorithm reads (`order`); who makes them writes them so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda import fragments, library, thin, wide
from kernel_templates.cuda.fragments import NATURAL, THIN, WIDE
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.parameters import thin_tokens
from kernel_templates.cuda.rows import gate
from kernel_templates.cuda.weights import Planes, joined
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import MOST_SHARES, SHARED_TOKENS
from kernel_templates.operation import Inputs

PACK_DEPENDS = ()
COUNTERS = 1 << 16
"""Programs that may share columns with others: each has an int32 of "counters"."""


def pack(problem: Matmul, config, weights, device: str) -> tuple[Planes, ...]:
    return (pack_planes([weights["w"]], device),)


def order(config: Mapping[str, Any]) -> int:
    """Of the columns of x, as of `cuda.fragments`: what the producer of a token's activations has to write."""
    return {"library": NATURAL, "thin": THIN, "wide": WIDE}[config["algorithm"]]


def adds(config: Mapping[str, Any]) -> bool:
    """Whether a product can be added to what "y" holds ("add" of `launches`)."""
    return config["algorithm"] == "library"


def scratch_size(problem: Matmul, config: Mapping[str, Any]) -> int:
    """float32 elements of "matmul_scratch": sums of programs that share columns, or what a gate reads."""
    if config["algorithm"] == "library":
        return -(-problem.tokens * problem.rows // 2) if problem.gate else 0
    shape = Planes(problem.format, problem.rows, problem.cols, ())
    given = (shape, problem.tokens, problem.gate)
    if config["algorithm"] == "thin":
        return thin.scratch_size(*given, config["tiles"], config["split"])
    return wide.scratch_size(*given, config["block"], config["tiles"], config["warps"], config["split"])


def most_scratch(problem: Matmul) -> int:
    """No configuration needs more: rows and tokens are padded to whole blocks, shares of columns are limited."""
    tokens = max(thin_tokens(problem.tokens), 16)
    return (problem.rows + 1024) * max(min(MOST_SHARES * tokens, SHARED_TOKENS), tokens)


def launches(
    problem: Matmul, config: Mapping[str, Any], packed: Sequence[Planes], buffers: Mapping[str, Any]
) -> list[Any]:
    """Reads "x" float16 [tokens, width of its order] by the order of its columns; writes "y" float32 [tokens, rows],
    whose rows may lie apart where the library writes them, or with a gate float16 [tokens, width of "y_order"], the
    gated activation times `gating.GATED_SCALE`. "add": where the configuration `adds`, the product times this is
    added to y instead. "norm": of a norm on one side of `thin` that has no kernel, as of `cuda.norm_between`, which
    says what y is then. packed: the matrix, or gate's and up's one below the other in memory.

    Uses "matmul_scratch", "counters" int32 [COUNTERS], zeros, and "expanded", a sequence of float16 buffers of which
    number "turn" is written; each may be shared by all products of a stream.
    """
    x, y = buffers["x"][order(config)], buffers["y"]
    y_order = buffers.get("y_order", NATURAL)
    name = buffers.get("name", "matmul")
    if config["algorithm"] == "library":
        factor, given = buffers.get("add", 1.0), (buffers["expanded"], buffers.get("turn", 0))
        if not problem.gate:
            return list(library.product(name, packed, x, y, *given, factor, "add" in buffers))
        # What is gated is rounded to float16 in any case; half the bytes on the way cost half the time.
        scratch = buffers["matmul_scratch"][: scratch_size(problem, config)].view(torch.float16)
        both = scratch[: problem.tokens * problem.rows].view(-1, problem.rows)
        made = library.product(name, packed, x, both, *given, GATED_SCALE.value)
        return [*made, gate.gate(both, y, problem.gate, y_order)]
    planes = joined(packed)
    if planes is None:
        raise ValueError("these matrices are apart in memory: multiply them one by one")
    shared: dict[str, Any] = {
        "tokens": problem.tokens,
        "gate": problem.gate,
        "out_order": y_order,
        "split": config["split"],
    }
    scratch, counters = buffers["matmul_scratch"], buffers["counters"]
    how = {name: config[name] for name in ("tiles", "warps", "ahead")}
    if config["algorithm"] == "thin":
        how |= {"ready": bool(config["ready"]), "norm": buffers.get("norm")}
        return [replace(thin.launch(planes, x, y, scratch, counters, order=THIN, **shared, **how), name=name)]
    how |= {"bt": config["block"], "stages": config["stages"], "parts": config["parts"]}
    return [replace(wide.launch(planes, x, y, scratch, counters, **shared, **how), name=name)]


def prepare(problem: Matmul, inputs: Inputs, device: str) -> dict[str, Any]:
    """x in every order; room for any configuration."""
    x = torch.from_numpy(inputs.buffers["x"][: problem.tokens * problem.cols].copy()).view(problem.tokens, -1)
    x = x.to(device).to(torch.float16)
    dtype = torch.float16 if problem.gate else torch.float32
    return {
        "x": {each: fragments.arranged(x, each) for each in (NATURAL, WIDE, THIN)},
        "y": torch.full((problem.tokens, problem.outputs), float("nan"), dtype=dtype, device=device),
        "expanded": (torch.empty(problem.rows * problem.cols, dtype=torch.float16, device=device),),
        "matmul_scratch": torch.full((most_scratch(problem),), float("nan"), device=device),
        "counters": torch.zeros(COUNTERS, dtype=torch.int32, device=device),
    }


def collect(problem: Matmul, buffers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    y = buffers["y"].float() / GATED_SCALE.value if problem.gate else buffers["y"]
    return {"y": y.cpu().numpy().ravel()}
