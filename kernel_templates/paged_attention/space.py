"""How attention over many rows can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.attention import cache
from kernel_templates.device import Device
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Constraint, Parameter, Space

SHARED_KIB = {"7.0": 96, "7.5": 64, "8.0": 163, "8.6": 99, "8.7": 163, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
"""Shared memory that a program may have, by compute capability (CUDA C++ Programming Guide, "Compute Capabilities")."""
TENSOR_CORES = 8.0
"""Compute capability from which Triton uses them; before, products are plain arithmetic, which large ones spill in."""
ANY_KIB = 48  # of a chip that is not known: every one has so much

TILES, REGISTERS = "tiles", "registers"
FEW = 8
"""Tokens of a text, and lines of a program, that fit where keys and values stay in registers."""
_READ_AGAIN = 4  # programs that may read the same keys by default
_WIDEST = 128  # elements of a head: of 256, a warp's 16 positions and outputs spill up to 2 KB a thread

_LEAST: dict[str, Any] = {"algorithm": TILES, "rows": 16, "tile": 64, "warps": 4, "stages": 2}
_LARGEST = 256  # elements of a head, but for Gemma 4's global layers, whose tiles are smaller
_WORDS = 192  # of 32 bits that a thread may hold for scores and outputs; it has 255 registers
_WORDS_MASKED = 176  # where a window or a cap needs some


def cuda(problem: PagedAttention, device: Device) -> Space:
    # One of the smallest is let through whatever it takes: heads of 1,024 elements are larger than any model's.
    least = _least(problem)
    shared = max(1024 * SHARED_KIB.get(device.capability, ANY_KIB), shared_bytes(problem, least))
    registers = max(_WORDS_MASKED if problem.window or problem.softcap else _WORDS, words(problem, least))
    tensor = float(device.capability) >= TENSOR_CORES
    lines = problem.group * problem.tokens  # rows of a product that one key head can have
    splits = [1]
    while (
        splits[-1] < 64 and splits[-1] * 32 < problem.reach and _programs(problem, 128) * splits[-1] < 4 * device.units
    ):
        splits.append(2 * splits[-1])
    default = _untuned(problem, device, shared, registers, splits)
    rows = [16]
    while rows[-1] < min(lines, 128) and tensor:
        rows.append(2 * rows[-1])
    algorithms = (TILES, REGISTERS) if _in_registers(problem, device) else (TILES,)
    if REGISTERS in algorithms:
        rows.insert(0, FEW)
    sizes = ((16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 3, 4)) if tensor else ((16,), (8,), (1,))
    return Space(
        (
            Parameter(
                "algorithm", algorithms, default["algorithm"],
                "keys and values in shared memory, tile after tile; or, of few rows, in registers, the first tile "
                "before the kernel in front has ended",
            ),
            Parameter("rows", tuple(rows), default["rows"], "rows of a program's products: tokens times query heads"),
            Parameter("tile", sizes[0], default["tile"], "positions read at a time"),
            Parameter("warps", sizes[1], default["warps"], "warps of a program"),
            Parameter("stages", sizes[2], default["stages"], "tiles on their way at once, in shared memory"),
            Parameter("splits", tuple(splits), default["splits"], "programs that share the positions of a row"),
            Parameter(
                "combine", ("last", "kernel"), default["combine"],
                "who joins the splits: the last to finish, or a kernel",
            ),
            Parameter(
                "edges", ("apart", "alike") if tensor else ("alike",), default["edges"],
                "whether tiles that all rows see whole have a loop without masks, which fills its pipeline anew",
            ),
        ),
        (
            Constraint(
                "few rows in registers", f"programs with tiles in registers have {FEW} rows, others more",
                lambda c: (c["rows"] == FEW) == (c["algorithm"] == REGISTERS),
            ),
            Constraint(
                "one tile in registers", "stages, and edges that have a loop of their own, are of shared memory",
                lambda c: c["algorithm"] == TILES or (c["stages"] == 1 and c["edges"] == "alike"),
            ),
            Constraint(
                "work for every warp",
                "warps divide a tile's scores by 8 rows or positions or more; in registers by 16 or 32 positions",
                lambda c: _warps_fit(c, tensor),
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
                "positions for every split", "splits are whole tiles: half as many would do if half stayed empty",
                lambda c: c["splits"] == 1 or c["splits"] // 2 * c["tile"] < problem.reach + problem.tokens,
            ),
            Constraint(
                "nothing to combine", "one split needs no second kernel",
                lambda c: c["splits"] > 1 or c["combine"] == "last" or c["algorithm"] == REGISTERS,
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


def _in_registers(problem: PagedAttention, device: Device) -> bool:
    """Whether there is a kernel that keeps tiles in registers; it reads float16."""
    tensor = float(device.capability) >= TENSOR_CORES and problem.cache == cache.F16
    return tensor and problem.tokens <= FEW and dims(problem) <= _WIDEST


def _warps_fit(config: Mapping[str, Any], tensor: bool) -> bool:
    """Of tiles in registers, 16 positions a warp, the fewest of a product of values, or 32, which spill a little."""
    if config["algorithm"] == TILES:
        return 8 * config["warps"] <= max(config["rows"], config["tile"]) or not tensor
    each, left = divmod(config["tile"], config["warps"])
    return not left and each in (16, 32)


def shared_bytes(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Queries, keys and values in shared memory, and what warps tell each other: an upper bound."""
    if config["algorithm"] == REGISTERS:  # 16 rows of two operands, or float32 of 8 lines, for each warp
        return 64 * config["warps"] * max(dims(problem), 32) + 4096
    if problem.cache != cache.F16:  # bytes, and the float16 that is made of one tile
        return 2 * dims(problem) * (config["rows"] + config["tile"] * (config["stages"] + 2)) + 4096
    return 2 * dims(problem) * (config["rows"] + 2 * config["tile"] * config["stages"]) + 4096


def words(problem: PagedAttention, config: Mapping[str, Any]) -> int:
    """Of 32 bits a thread: outputs, scores and weights, and a tile's addresses, with one stage also its keys."""
    if config["algorithm"] == REGISTERS:
        return 0  # `_warps_fit`
    held = config["rows"] * (2 * dims(problem) + 3 * config["tile"]) // 64
    if config["rows"] < 64:  # larger products read queries from shared memory
        held += config["rows"] * dims(problem) // 64
    on_the_way = config["tile"] * dims(problem) // 64
    return (held + on_the_way * (2 if config["stages"] == 1 else 1)) // config["warps"]


def _least(problem: PagedAttention) -> dict[str, Any]:
    """One of the smallest programs that there are."""
    return _LEAST if dims(problem) <= _LARGEST else {**_LEAST, "tile": 32, "stages": 1}


def _programs(problem: PagedAttention, rows: int) -> int:
    """Programs of one split."""
    config = {"rows": rows}
    blocks = problem.sequences * -(-problem.tokens // block_tokens(problem, config))
    return blocks * problem.kv_heads * -(-problem.group // together(problem, config))


def _untuned(problem: PagedAttention, device: Device, shared: int, registers: int, splits: list[int]) -> dict[str, Any]:
    """Many rows: 64 a program, so that one computes while another waits, and of heads beyond 128 elements as many as
    registers hold. Few rows: four warps side by side over a tile, three tiles on their way. Positions are split until
    every multiprocessor has a few programs; joining them is not worth a launch."""
    lines = problem.group * problem.tokens
    tensor = float(device.capability) >= TENSOR_CORES
    if _in_registers(problem, device) and lines <= _READ_AGAIN * FEW:
        return _untuned_few(problem, device, shared, splits)
    sizes: tuple[tuple[int, int], ...]  # rows, warps
    tiles: tuple[int, ...]
    stages: tuple[int, ...]
    if lines >= 64:
        sizes, tiles, stages = ((128, 8), (64, 4), (64, 8)), (64, 32), (3, 2, 1)
        if dims(problem) > _LARGEST:
            tiles += (16,)
        if dims(problem) <= 128 or _programs(problem, 128) < device.units or lines < 128:
            sizes = sizes[1:]
    else:
        few = max(16, 1 << (lines - 1).bit_length())
        sizes = tuple((rows, warps) for warps in (4, 8) for rows in dict.fromkeys((few, 16)))
        tiles, stages = (64,), (3, 2, 1)
    tries: list[dict[str, Any]] = [
        {"algorithm": TILES, "rows": rows, "tile": tile, "warps": warps, "stages": stage}
        for rows, warps in sizes for tile in tiles for stage in stages
    ]  # fmt: skip
    fitting = (c for c in tries if shared_bytes(problem, c) <= shared and words(problem, c) <= registers)
    chosen = next(fitting, _least(problem)) if tensor else {**_LEAST, "tile": 16, "warps": 8, "stages": 1}
    wanted = (4 if lines < 64 else 2) * device.units // _programs(problem, chosen["rows"])
    longest = problem.reach + problem.tokens
    count = max(s for s in splits if s == 1 or (s <= wanted and s // 2 * chosen["tile"] < longest))
    # Heads that are padded have masks of their own: beside a window's no registers are left for joining.
    apart = count > 1 and problem.window and dims(problem) != problem.head_dim
    return chosen | {
        "splits": count,
        "combine": "kernel" if apart else "last",
        "edges": "apart" if problem.tokens >= 16 and tensor else "alike",
    }


def _untuned_few(problem: PagedAttention, device: Device, shared: int, splits: list[int]) -> dict[str, Any]:
    """Measured on an H200 (docs/log.md). Several tokens: one program of eight warps a multiprocessor, which join fast.
    One token: the same if they hold everything at once, else many of two warps, which take turns at loading."""
    programs, longest = _programs(problem, FEW), problem.reach
    common: dict[str, Any] = {"algorithm": REGISTERS, "rows": FEW, "stages": 1, "combine": "last", "edges": "alike"}
    sizes = ((8, 128, 9 * device.units // 8), (2, 64, 8 * device.units))
    chosen = common
    for warps, tile, resident in sizes if shared_bytes(problem, common | {"warps": 8}) <= shared else sizes[1:]:
        # Programs of a split: one more has the pass's own rows.
        some = [s for s in splits if s == 1 or (s // 2 * tile < longest and programs * (s + 1) <= resident)]
        chosen = common | {"tile": tile, "warps": warps, "splits": some[-1]}
        if problem.tokens > 1 or some[-1] * tile >= longest:
            break
    return chosen
