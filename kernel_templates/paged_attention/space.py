"""How attention over many rows can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.device import Device
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Constraint, Parameter, Space

SHARED_KIB = {"7.0": 96, "7.5": 64, "8.0": 163, "8.6": 99, "8.7": 163, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
"""Shared memory that a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""
_ANY_KIB = 48  # of a chip that is not known: every one has so much

_SMALLEST = {"rows": 16, "tile": 16, "warps": 1, "stages": 1}
_WORDS = 200  # of 32 bits that a thread may hold for scores and outputs; it has 255 registers


def cuda(problem: PagedAttention, device: Device) -> Space:
    # The smallest is let through whatever it takes: heads of 1,024 elements are too large for small chips' memory.
    shared = max(1024 * SHARED_KIB.get(device.capability, _ANY_KIB), shared_bytes(problem, _SMALLEST))
    registers = max(_WORDS, words(problem, _SMALLEST))
    lines = problem.group * problem.tokens  # rows of a product that one key head can have
    splits = [1]
    while splits[-1] < 64 and splits[-1] * 32 < problem.reach and _programs(problem, 128) * splits[-1] < 4 * device.units:
        splits.append(2 * splits[-1])
    default = _untuned(problem, device, shared, registers, splits)
    rows = [16]
    while rows[-1] < min(lines, 128):
        rows.append(2 * rows[-1])
    return Space(
        (
            Parameter("rows", tuple(rows), default["rows"], "rows of a program's products: tokens times query heads"),
            Parameter("tile", (16, 32, 64, 128), default["tile"], "positions read at a time"),
            Parameter("warps", (1, 2, 4, 8), default["warps"], "warps of a program"),
            Parameter("stages", (1, 2, 3, 4), default["stages"], "tiles on their way at once, in shared memory"),
            Parameter("splits", tuple(splits), default["splits"], "programs that share the positions of a row"),
            Parameter(
                "edges", ("apart", "alike"), default["edges"],
                "whether tiles that all rows see whole have a loop without masks, which fills its pipeline anew",
            ),
        ),
        (
            Constraint(
                "work for every warp", "warps divide a tile's scores by 16 rows or 16 positions",
                lambda c: 16 * c["warps"] <= max(c["rows"], c["tile"]),
            ),
            Constraint(
                "tiles fit in shared memory",
                f"queries and {shared // 1024} KiB at most for as many tiles of keys and values as there are stages",
                lambda c: shared_bytes(problem, c) <= shared,
            ),
            Constraint(
                "registers", f"a tile's scores and the outputs, {registers} words a thread at most, stay in registers",
                lambda c: words(problem, c) <= registers,
            ),
            Constraint(
                "positions for every split", "splits are whole tiles: half as many would do if half of them stayed empty",
                lambda c: c["splits"] == 1 or c["splits"] // 2 * c["tile"] < problem.reach + problem.tokens,
            ),
        ),
    )  # fmt: skip


def dims(problem: PagedAttention) -> int:
    """A head's elements, padded: Triton's blocks have powers of two."""
    return max(16, 1 << (problem.head_dim - 1).bit_length())


def together(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Query heads of one key head that a program has."""
    return min(problem.group, config["rows"])


def block_tokens(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Tokens of one text that a program has; rows that are left over are padding."""
    return min(problem.tokens, config["rows"] // together(problem, config))


def shared_bytes(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Queries, keys and values in shared memory, and what warps tell each other: an upper bound."""
    return 2 * dims(problem) * (config["rows"] + 2 * config["tile"] * config["stages"]) + 4096


def words(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Of 32 bits a thread: outputs, scores and weights, and the addresses of a tile on its way."""
    held = config["rows"] * (2 * dims(problem) + 3 * config["tile"]) // 64
    return (held + config["tile"] * dims(problem) // 64) // config["warps"]


def _programs(problem: PagedAttention, rows: int) -> int:
    """Programs of one split."""
    config = {"rows": rows}
    blocks = problem.sequences * -(-problem.tokens // block_tokens(problem, config))
    return blocks * problem.kv_heads * -(-problem.group // together(problem, config))


def _untuned(
    problem: PagedAttention, device: Device, shared: int, registers: int, splits: list[int]
) -> dict[str, Any]:
    """Many rows: products as large as registers hold. Few rows: four warps side by side over a tile, three tiles on
    their way. Positions are split until every multiprocessor has a few programs."""
    lines = problem.group * problem.tokens
    sizes: tuple[tuple[int, int], ...]  # rows, warps
    if lines >= 64:
        sizes, tiles, stages = ((128, 8), (64, 4)), (64, 32), (2, 1)
        if _programs(problem, 128) < device.units or lines < 128:
            sizes = sizes[1:]
    else:
        few = max(16, 1 << (lines - 1).bit_length())
        sizes, tiles, stages = tuple((rows, 4) for rows in dict.fromkeys((few, 16))), (64,), (3, 2, 1)
    tries = [
        {"rows": rows, "tile": tile, "warps": warps, "stages": stage}
        for rows, warps in sizes for tile in tiles for stage in stages
    ]  # fmt: skip
    fitting = (c for c in tries if shared_bytes(problem, c) <= shared and words(problem, c) <= registers)
    chosen = next(fitting, _SMALLEST)
    wanted = (4 if lines < 64 else 2) * device.units // _programs(problem, chosen["rows"])
    longest = problem.reach + problem.tokens
    count = max(s for s in splits if s == 1 or (s <= wanted and s // 2 * chosen["tile"] < longest))
    return chosen | {"splits": count, "edges": "apart" if problem.tokens >= 16 else "alike"}
