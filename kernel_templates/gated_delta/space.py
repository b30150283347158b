"""How what lies between a gated delta net's projections can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.attention.space import power_of_two
from kernel_templates.device import Device
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.paged_attention.space import ANY_KIB, SHARED_KIB
from kernel_templates.space import Constraint, Parameter, Space

CHUNKED_FROM = 16
"""Rows of a text from which on chunks are the default: fewer do not fill one."""
LEAST_CHUNKED = 8
"""Rows of a text below which the smallest chunk would be mostly empty."""
LEAST = 16
"""Rows and columns that a product on tensor cores has at least."""
MOST_HELD = 128
"""Elements of a state, or of a chunk's matrices, that a thread may hold; it has 255 registers."""
PROGRAMS = 128
"""That keep a large GPU's multiprocessors busy."""

_FREE = {"chunk": 64, "meet_warps": 4, "stages": 2}


def cpu(problem: GatedDelta, features: frozenset[str]) -> Space:
    """Nothing else is worth a choice: a row of the state stays in registers from reading to writing."""
    ahead = (0, 512, 1024, 2048, 4096, 8192)
    return Space((Parameter("prefetch", ahead, 1024, "bytes ahead that states are asked for"),), ())


def cuda(problem: GatedDelta, device: Device) -> Space:
    """One row: a kernel whose programs share a head's values. Rows of a text: one after the other, or by chunks."""
    dims = power_of_two(problem.head_dim)
    widths = tuple(n for n in (8, 16, 32, 64, 128, 256) if n <= dims)
    columns = _columns(problem, dims, widths)
    parameters = [
        Parameter("columns", widths, columns, "values of a head that a program has, with all of its keys"),
        Parameter("warps", (1, 2, 4, 8, 16), _warps(dims * columns), "warps of a program that holds a state"),
    ]
    constraints = [
        Constraint(
            "a state in registers", f"a thread holds at least one and at most {MOST_HELD} elements of its state",
            lambda c: 1 <= dims * c["columns"] / (32 * c["warps"]) <= MOST_HELD,
        ),
    ]  # fmt: skip
    if problem.rows == 1:
        early = "whether the next kernel may start at once, or when this one has its input"
        return Space((*parameters, Parameter("early", (0, 1), 1, early)), tuple(constraints))
    may_chunk = problem.tokens >= LEAST_CHUNKED and dims >= LEAST
    algorithms = ("recurrent", "chunked") if may_chunk else ("recurrent",)
    default: dict[str, Any] = dict(_FREE, algorithm="recurrent")
    shared = 1024 * SHARED_KIB.get(device.capability, ANY_KIB)
    if may_chunk and problem.tokens >= CHUNKED_FROM:
        tries = ({"chunk": chunk, "stages": stages} for chunk in (64, 32, 16) for stages in (2, 1))
        sizes = [t for t in tries if t["chunk"] <= power_of_two(problem.tokens) and not _misplaced(device, t)]
        least = sizes[-1]
        fitting = next((t for t in sizes if shared_bytes(problem, {**t, "columns": columns}) <= shared), least)
        default |= {**fitting, "algorithm": "chunked"}
        shared = max(shared, shared_bytes(problem, {**least, "columns": columns}))  # this is let through in any case
    parameters += [
        Parameter("algorithm", algorithms, default["algorithm"], "rows one after the other, or by chunks of rows"),
        Parameter("chunk", (16, 32, 64, 128), default["chunk"], "rows of a chunk"),
        Parameter("meet_warps", (2, 4, 8, 16), default["meet_warps"], "warps of a program that prepares a chunk"),
        Parameter("stages", (1, 2, 3), default["stages"], "chunks that are on their way at once"),
    ]
    constraints += [
        Constraint(
            "rows alone", "rows one after the other have no chunks",
            lambda c: c["algorithm"] != "recurrent" or all(c[name] == value for name, value in _FREE.items()),
        ),
        Constraint(
            "products", f"tensor cores take {LEAST} columns at least, in 4 warps or more",
            lambda c: c["algorithm"] != "chunked" or (c["columns"] >= LEAST and c["warps"] >= 4),
        ),
        Constraint(
            "full chunks", "a chunk twice as long as all rows would be empty for the most part",
            lambda c: c["algorithm"] != "chunked" or c["chunk"] < 2 * max(problem.tokens, LEAST),
        ),
        Constraint(
            "chunks in registers", f"a thread holds at most {MOST_HELD} elements of a chunk's two matrices",
            lambda c: c["algorithm"] != "chunked" or 2 * c["chunk"] ** 2 <= 32 * c["meet_warps"] * MOST_HELD,
        ),
        Constraint(
            "chunks fit in shared memory", f"{shared // 1024} KiB at most for as many chunks as there are stages",
            lambda c: c["algorithm"] != "chunked" or shared_bytes(problem, c) <= shared,
        ),
        Constraint(
            "right machine code", "ptxas 12.8 misplaces operands of wgmma in chunks of 64 rows or more, one at a time",
            lambda c: c["algorithm"] != "chunked" or not _misplaced(device, c),
        ),
    ]  # fmt: skip
    return Space(tuple(parameters), tuple(constraints))


def splits(problem: GatedDelta, config: Mapping[str, Any]) -> int:
    """Programs that share the values of a head."""
    return -(-problem.head_dim // config["columns"])


def shared_bytes(problem: GatedDelta, config: Mapping[str, Any]) -> int:
    """Of a program that goes through chunks, an upper bound: queries, keys, values and both matrices of the chunks on
    their way, then the state and what is added to it, all float16."""
    chunk, columns, dims = config["chunk"], config["columns"], power_of_two(problem.head_dim)
    a_chunk = chunk * (2 * dims + columns + 2 * chunk)
    return 2 * (config["stages"] * a_chunk + columns * (dims + chunk)) + 1024


def _misplaced(device: Device, config: Mapping[str, Any]) -> bool:
    """Whether `cuda.sass` may find the machine code wrong: that of 16 of 106 such
    configurations is, and of none of 198 others."""
    return device.capability == "9.0" and config["chunk"] >= 64 and config["stages"] == 1


def _columns(problem: GatedDelta, dims: int, widths: tuple[int, ...]) -> int:
    """The most that leave a program for every multiprocessor."""
    columns = min(dims, 64)
    while columns > LEAST and problem.sequences * problem.heads * (dims // columns) < PROGRAMS:
        columns //= 2
    return max(columns, widths[0])


def _warps(held: int) -> int:
    """32 elements a thread, but 4 warps as long as each thread has one."""
    return max(min(max(held // (32 * 32), 4), 16, held // 32), 1)
