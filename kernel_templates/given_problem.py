"""A problem that somebody names, checked before anything is made of it: sizes, formats, what they have in common.

Keys that the tuning database holds are parsed by `registry.parse_problem` alone: they were made of a model.
"""

from dataclasses import fields

from kernel_templates import formats, registry
from kernel_templates.problem import Chain, Problem

ACTIVATIONS = ("int8", "int16")
LARGEST = 1 << 24  # of any size: tokens of a vocabulary, positions of a context
SMALLEST = 2.0**-10  # of a scale or cap
MOST_ELEMENTS = 1 << 34  # of a matrix: ten times the largest one published
LIMITS = {
    "heads": 1024, "kv_heads": 1024, "head_dim": 1024, "rope_dim": 1024, "hidden": 1 << 16, "ffn": 1 << 20,
    "sequences": 1 << 10, "tokens": 1 << 14, "key_heads": 1024, "kernel": 16,
    "experts": 1 << 12, "used": 1 << 8, "shared_ffn": 1 << 20,
}  # fmt: skip
VECTOR = 32  # elements that an activation's length is a multiple of


def parse(key: str) -> Problem:
    """The Problem that `key`, "op:field=value,...", names. ValueError, one line, for none or one that cannot be."""
    problem = registry.parse_problem(key)
    _check_fields(problem)
    for part in problem.parts().values() if isinstance(problem, Chain) else (problem,):
        _check_matrices(part)
    return problem


def _check_fields(problem: Problem) -> None:
    given = {f.name: getattr(problem, f.name) for f in fields(problem)}
    for f in fields(problem):
        name, value = f.name, given[f.name]
        if (f.metadata.get("trait") and value == f.default) or f.metadata.get("known"):
            continue  # parsing has checked it
        if name == "qk_norm":
            if value not in (0, 1):
                raise ValueError(f"qk_norm={value} is neither 0 nor 1")
        elif isinstance(value, int):
            most = LIMITS.get(name, LARGEST)
            if not 1 <= value <= most:
                raise ValueError(f"{name}={str(value)[:24]} is not a number from 1 to {most}")
        elif isinstance(value, float):
            if not SMALLEST <= value <= LARGEST:
                raise ValueError(f"{name}={value} is neither 0 nor a number from {SMALLEST} to {LARGEST}")
        elif name == "activation":
            if value not in ACTIVATIONS:
                raise ValueError(f"unknown activation {value[:40]!r}; known: {', '.join(ACTIVATIONS)}")
        elif value not in formats.FORMATS:
            raise ValueError(f"{name}: unknown weight format {value[:40]!r}; known: {', '.join(formats.FORMATS)}")
    if given.get("gate") and given["rows"] % 2:
        raise ValueError(f"{given['rows']} rows are not a gate's and as many of what it gates")
    if given.get("used", 0) > given.get("experts", 0):
        raise ValueError(f"used={given['used']} experts a token are more than experts={given['experts']}")
    if "shared_ffn" in given:
        shared = ("shared_ffn", "shared_gate_format", "shared_up_format", "shared_down_format")
        if len({bool(given[name]) for name in shared}) > 1:
            raise ValueError(f"a shared expert has all of {', '.join(shared)}")
        if given["shared_gated"] and not given["shared_ffn"]:
            raise ValueError("shared_gated=1 without a shared expert: shared_ffn is missing")
    heads, kv_heads = given.get("heads", 1), given.get("kv_heads", 1)
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key-value heads evenly")
    if heads % (key_heads := given.get("key_heads", 1)):
        raise ValueError(f"{heads} value heads cannot share {key_heads} key heads evenly")
    head_dim = given.get("head_dim", 16)
    if head_dim % 16:
        raise ValueError(f"head_dim={head_dim} does not divide by 16")
    if (rope_dim := given.get("rope_dim", 2)) % 2 or (rope_dim > head_dim and "head_dim" in given):
        raise ValueError(f"rope_dim={rope_dim} is not an even number up to head_dim={head_dim}")


def _check_matrices(problem: Problem) -> None:
    for matrix in problem.matrices:
        if matrix.rows * matrix.cols > MOST_ELEMENTS:
            raise ValueError(f"a matrix of {matrix.rows} by {matrix.cols} is larger than any model's")
        if matrix.cols % VECTOR:
            raise ValueError(f"rows of {matrix.cols} elements do not divide by {VECTOR}")
        formats.get(matrix.format).row_bytes(matrix.cols)
