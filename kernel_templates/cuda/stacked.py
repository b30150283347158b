"""Matrices one below the other times one normed vector: as few kernels as their formats allow."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from kernel_templates.cuda import parameters, product
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.weights import Planes
from kernel_templates.cuda.weights import pack as pack_planes
from kernel_templates.operation import Weight
from kernel_templates.problem import Problem


def pack(problem: Problem, weights: Mapping[str, Weight], device: str) -> tuple[Planes, ...]:
    """Neighbouring matrices of one format in one, whatever the configuration."""
    by_format = groupby(problem.matrices, key=lambda m: m.format)
    return tuple(pack_planes([weights[m.name] for m in group], device) for _, group in by_format)


def launches(
    name: str, config: Mapping[str, Any], packed: Sequence[Planes], buffers: Mapping[str, Any], out: Any, bias: Any,
    activation: str,
) -> list[Launch]:  # fmt: skip
    """out [all rows] = W n. Reads the Vector "x" (quantized times norm), "norm", "eps"; bias: float32 [all rows], which
    waits in registers for the product, or None."""
    made, first = [], 0
    x, norm, eps, warps = buffers["x"].pointers, buffers["norm"], buffers["eps"], config["warps"]
    several = list(packed)
    while several:
        planes = several.pop(0)
        constants = parameters.constants(config, "", planes.format, planes.cols, planes.rows, activation)
        programs, end = parameters.programs(constants, planes.rows), first + planes.rows
        y, added = out[first:], None if bias is None else bias[first:]
        if several:  # of another format: a kernel of its own would have few programs, and would wait for the first
            below = several.pop(0)
            other = parameters.constants(config, "", below.format, below.cols, below.rows, activation)
            constants |= {f"BELOW_{name}": other[name] for name in ("TRAITS", "CHUNKS", "AHEAD", "EVEN")}
            programs, end = programs + parameters.programs(other, below.rows), end + below.rows
            arguments = (*planes.pointers, *below.pointers, *x, norm, eps, y, planes.rows, below.rows, added)
            kernel: Any = product.two_rows_products
        else:
            # No best row is asked for: its pointers are not followed.
            arguments = (*planes.pointers, *x, norm, eps, y, y, y, planes.rows, added)
            constants |= {"SOFT_CAP": 0.0, "BEST": False}
            kernel = product.rows_product
        made.append(Launch(name, kernel, (programs,), arguments, constants, warps))
        first = end
    return made
