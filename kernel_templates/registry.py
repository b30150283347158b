"""Every operation by name, and a backend's templates and spaces when they are asked for."""

import importlib
import importlib.util

from kernel_templates import (
    attention,
    delta_layer,
    ffn,
    gated_delta,
    grouped_matmul,
    head,
    input_gate,
    layer,
    matmul,
    matvec,
    moe,
    norm_qkv_rope,
    norm_qkvz,
    paged_attention,
    per_layer_inputs,
)
from kernel_templates.device import Device
from kernel_templates.operation import CpuTemplate, CudaTemplate, Operation
from kernel_templates.problem import Problem
from kernel_templates.space import Space

_MODULES = (
    norm_qkv_rope,
    attention,
    paged_attention,
    norm_qkvz,
    gated_delta,
    matvec,
    matmul,
    ffn,
    moe,
    grouped_matmul,
    input_gate,
    per_layer_inputs,
    head,
    layer,
    delta_layer,
)
OPERATIONS: dict[str, Operation] = {module.OPERATION.name: module.OPERATION for module in _MODULES}


def get(name: str) -> Operation:
    """The operation called `name`; ValueError lists those there are."""
    if name not in OPERATIONS:
        raise ValueError(f"no operation is called {name!r}; there are {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


def parse_problem(key: str) -> Problem:
    """The Problem that a key names; ValueError if it names none."""
    op, _, fields = key.partition(":")
    return get(op).problem.parse(fields)


def has_template(op: str, backend: str) -> bool:
    """Whether there is one for "cpu" or "cuda", without importing it. ValueError for an unknown operation."""
    return importlib.util.find_spec(f"kernel_templates.{get(op).name}.{backend}") is not None


def cpu(op: str) -> CpuTemplate:
    """The module `kernel_templates.<op>.cpu`, imported now, Numba with it. NotImplementedError where there is none."""
    name = f"kernel_templates.{get(op).name}.cpu"
    try:
        return importlib.import_module(name)  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        if error.name != name:  # a package that the template imports
            raise
        raise NotImplementedError(f"{op} has no template for the cpu") from None


def cpu_space(problem: Problem, features: frozenset[str]) -> Space:
    """How a problem's CPU template can be built for a processor with these instructions.

    NotImplementedError where there is no template.
    """
    cpu(problem.op)
    return importlib.import_module(f"kernel_templates.{problem.op}.space").cpu(problem, features)


def cuda(op: str) -> CudaTemplate:
    """The module `kernel_templates.<op>.cuda`, imported now, Triton with it. ValueError for an unknown operation."""
    return importlib.import_module(f"kernel_templates.{get(op).name}.cuda")  # type: ignore[return-value]


def cuda_space(problem: Problem, device: Device) -> Space:
    """How a problem's GPU template can be built for a device; needs neither Triton nor a GPU."""
    return importlib.import_module(f"kernel_templates.{get(problem.op).name}.space").cuda(problem, device)


def space(problem: Problem, device: Device) -> Space:
    """How a problem's template can be built for a device, whichever backend that has."""
    if device.backend == "cuda":
        return cuda_space(problem, device)
    return cpu_space(problem, frozenset(device.capability.split("-")))
