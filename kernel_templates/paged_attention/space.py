"""How attention over many rows can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.device import Device
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Constraint, Parameter, Space

SHARED_KIB = {"7.0": 96, "7.5": 64, "8.0": 163, "8.6": 99, "8.7": 163, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
"""Shared memory that a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""
_ANY_KIB = 48  # of a chip that is not known: every one has so much

_WORDS = 200  # of 32 bits that a thread may hold for scores and outputs; it has 255 registers


def cuda(problem: PagedAttention, device: Device) -> Space:
    shared = 1024 * SHARED_KIB.get(device.capability, _ANY_KIB)
    lines = min(problem.group, 128) * problem.tokens  # rows of a product that one key head can have
    splits = [1]
    while splits[-1] < 64 and splits[-1] * 32 < problem.reach and _programs(problem, 128) * splits[-1] < 4 * device.units:
        splits.append(2 * splits[-1])
    default = _untuned(problem, device, shared, splits)
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
                "rows of one key head", f"a program holds whole groups of up to {min(problem.group, 128)} query heads",
                lambda c: c["rows"] >= min(problem.group, 128),
            ),
            Constraint(
                "rows for every warp", "a warp has at least 16 rows of a product: others would only do its work again",
                lambda c: 16 * c["warps"] <= max(c["rows"], 64),
            ),
            Constraint(
                "tiles fit in shared memory",
                f"queries and {shared // 1024} KiB at most for as many tiles of keys and values as there are stages",
                lambda c: shared_bytes(problem, c) <= shared,
            ),
            Constraint(
                "registers", f"a tile's scores and the outputs, {_WORDS} words a thread at most, stay in registers",
                lambda c: words(problem, c) <= _WORDS,
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
    """Queries, keys and values in shared memory: an upper bound."""
    return 2 * dims(problem) * (config["rows"] + 2 * config["tile"] * config["stages"])


def words(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Of 32 bits a thread: outputs, scores and weights. Warps beyond one for 16 rows hold the same again."""
    warps = min(config["warps"], config["rows"] // 16)
    return config["rows"] * (2 * dims(problem) + 3 * config["tile"]) // (64 * warps)


def _programs(problem: PagedAttention, rows: int) -> int:
    """Programs of one split."""
    config = {"rows": rows}
    blocks = problem.sequences * -(-problem.tokens // block_tokens(problem, config))
    return blocks * problem.kv_heads * -(-problem.group // together(problem, config))


def _untuned(problem: PagedAttention, device: Device, shared: int, splits: list[int]) -> dict[str, Any]:
    """Many rows: products as large as registers hold, two programs a multiprocessor in turn with softmax and products.
    Few rows: one warp of them, positions split until every multiprocessor has a few programs."""
    lines = min(problem.group, 128) * problem.tokens
    if lines >= 64:
        rows = 128 if lines >= 128 and _programs(problem, 128) >= device.units else 64
        tries = [(rows, 64, warps, stages) for warps in (rows // 16, 4) for stages in (2, 1)] + [(64, 32, 4, 1)]
    else:
        rows = max(16, 1 << (lines - 1).bit_length())
        tries = [(rows, tile, rows // 16, stages) for tile, stages in ((64, 3), (32, 3), (32, 2), (16, 1))]
    tries.append((max(16, 1 << (min(problem.group, 128) - 1).bit_length()), 16, 8 if lines >= 64 else 4, 1))
    for rows, tile, warps, stages in tries:
        config = {"rows": rows, "tile": tile, "warps": warps, "stages": stages}
        if shared_bytes(problem, config) <= shared and words(problem, config) <= _WORDS:
            break
    wanted = max(1, 4 * device.units // _programs(problem, rows)) if lines < 64 else 1
    if lines >= 64 and _programs(problem, rows) < device.units:
        wanted = max(1, 2 * device.units // _programs(problem, rows))
    count = max(
        s for s in splits if s == 1 or (s <= wanted and s // 2 * tile < problem.reach + problem.tokens)
    )
    return config | {"splits": count, "edges": "apart" if problem.tokens >= 16 else "alike"}
