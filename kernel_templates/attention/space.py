"""How decoding attention can be built."""

from collections.abc import Mapping
from typing import Any

from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.device import Device
from kernel_templates.space import Constraint, Parameter, Space

_SHORT = 512  # positions whose keys and values the second-level cache gives at any rate

_HELD = 64  # elements of a tile's keys a thread, and of its values: with them it takes 216 registers

_JOINED = 32  # splits: to join more costs what smaller shares save

_ROOM = 12  # 8 words for each row's keys and values, twice, and for each head's query and output: 255 registers hold 12

_MANY = 4  # query heads of a key from which threads are busier than memory (docs/log.md)

_DEEP = 16384  # positions from which a loop on tensor cores is worth what its shared memory costs its neighbours

THREADS, TENSOR_CORES = "threads", "tensor_cores"
REGISTERS = "registers"
"""Tensor cores too, with keys and values in registers: of a cache of 8 bits (`cuda_bytes`), which took a quarter longer
by way of shared memory (docs/log.md)."""
_RESIDENT = 8  # warps of them that a multiprocessor has registers for

TOGETHER = (1, 2, 3, 4)

AT_ONCE = Parameter(
    "at_once", (0, 1), 1,
    "whether all of a tile in registers is asked for before anything of it is used, or as registers become free",
)  # fmt: skip


def cpu(problem: Attention, features: frozenset[str]) -> Space:
    """The default keeps two sums of every head that runs together in registers."""
    group = problem.heads // problem.kv_heads
    wide = "avx512bw" in features
    together = max(n for n in TOGETHER if group % n == 0 and (wide or n <= 2))
    positions = 16 if not wide else 64 if together <= 3 else 32
    return Space(
        (
            Parameter("chunk", (64, 128, 256, 512), 128, "positions a thread takes at a time"),
            Parameter("positions_together", (16, 32, 64), positions, "positions scored by one vector"),
            Parameter(
                "heads_together", TOGETHER, together,
                "query heads that share one pass over keys and values",
            ),
        ),
        (
            Constraint(
                "whole groups",
                f"{group} query heads share a key head: passes must divide them",
                lambda c: group % c["heads_together"] == 0,
            ),
        ),
    )  # fmt: skip


def cuda(problem: Attention, device: Device) -> Space:
    group = problem.heads // problem.kv_heads
    splits = [1]
    while splits[-1] < 128 and splits[-1] * 16 < problem.reach and splits[-1] * problem.kv_heads < 4 * device.units:
        splits.append(2 * splits[-1])
    default = _untuned(problem, device, splits)
    waits = problem.reach > _SHORT and waits_early(device)

    # Shorter ones threads hold in registers at once; of more heads of a key, outputs would not fit there.
    algorithms: tuple[str, ...] = (THREADS,)
    if _tensor_cores(problem, device):
        algorithms += (TENSOR_CORES,) if problem.cache == cache.F16 else (REGISTERS,)

    def fits(config) -> bool:
        if config["algorithm"] == REGISTERS:
            each, left = divmod(config["tile"], config["warps"])
            return not left and each in _each(problem)
        if config["algorithm"] == TENSOR_CORES:
            return _tiles_fit(problem, device, config)
        return one_pass(problem, config) or (
            _rows(problem, config) <= _most_rows(config["heads"])
            and (config["heads"] == group or problem.reach <= _SHORT)
        )

    return Space(
        (
            Parameter(
                "algorithm", algorithms, default["algorithm"],
                "who multiplies: threads, once for every query head of a key, or tensor cores, all heads at once, from "
                "shared memory or from registers",
                formerly=THREADS,
            ),
            Parameter("tile", (16, 32, 64, 128, 256), default["tile"], "positions loaded at a time"),
            Parameter("warps", (1, 2, 4, 8), default["warps"], "warps of a program"),
            Parameter("splits", tuple(splits), default["splits"], "programs that share the positions of a key head"),
            Parameter(
                "heads", tuple(sorted({1, group})), default["heads"], "query heads of a program: all that share a key "
                "head, or one, for less to do in a row though the cache is read more often",
            ),
            Parameter(
                "combine", ("last", "kernel"), default["combine"],
                "who joins the splits: the last to finish, or a kernel",
            ),
            Parameter(
                "prefetch", (0, 1) if waits else (0,), 0,
                "whether a program that loops asks for its share in the second-level cache before it waits for the "
                "previous kernel: for all of it, or on tensor cores for the tiles that are copied first",
                formerly=0,
            ),
            Parameter(
                "stages", (1, 3, 4) if TENSOR_CORES in algorithms else (1,), default["stages"],
                "tiles of tensor cores, in use and on their way to shared memory; 1: a share is one tile, there before "
                "the wait for the previous kernel",
                formerly=1,
            ),
            Parameter("early", (0, 1), 1, "whether the next kernel may start at once, or when this one has its input"),
            *((AT_ONCE,) if REGISTERS in algorithms else ()),
        ),
        (
            Constraint(
                "a row for every thread",
                f"a warp reads {slots(problem, 1)} positions at once: a tile must have some for each warp",
                lambda c: 1 <= slots(problem, c["warps"]) <= c["tile"],
            ),
            Constraint(
                "tiles fit in registers",
                "threads hold two tiles of keys and values, or one that covers a split's share, and heads' queries and "
                f"outputs; beyond {_SHORT} positions, tiles are for all heads that share a key head",
                fits,
            ),
            Constraint(
                "whole groups on tensor cores",
                "they multiply all heads that share a key head, whose splits a kernel joins: the last program took "
                "twice as long; registers have no stages",
                lambda c: (
                    (c["algorithm"] == THREADS or _whole_groups(c, group))
                    and (c["algorithm"] == TENSOR_CORES or c["stages"] == 1)
                ),
            ),
            Constraint(
                "positions for every split",
                "splits are whole tiles: half as many would do if half of them stayed empty",
                lambda c: c["splits"] == 1 or c["splits"] // 2 * c["tile"] < problem.reach,
            ),
            Constraint(
                "nothing to prefetch",
                "a program that holds all of its share has asked for it",
                lambda c: not (c["prefetch"] and holds_all(problem, c)),
            ),
            Constraint(
                "whole blocks to prefetch",
                "the cache is asked for by blocks of 16 bytes: a head's 8-bit elements must be whole ones",
                lambda c: not c["prefetch"] or problem.head_dim % 16 == 0,
            ),
            Constraint(
                "asked for at once", "is about tiles in registers of tensor cores",
                lambda c: c["algorithm"] == REGISTERS or c.get("at_once", 1) == 1,
            ),
            Constraint(
                "nothing to combine",
                "one split needs no second kernel",
                lambda c: c["splits"] > 1 or c["combine"] == "last",
            ),
        ),
    )  # fmt: skip


def waits_early(device: Device) -> bool:
    """Whether kernels wait for the previous one by themselves, and what they do before is early."""
    return float(device.capability) >= 9.0


def one_pass(problem: Attention, config: Mapping[str, Any]) -> bool:
    """Whether programs hold all of their shares of the positions at once."""
    dims = power_of_two(problem.head_dim)
    return (
        problem.reach <= config["tile"] * config["splits"]
        and 8 * config["warps"] <= dims <= 256
        and slots(problem, config["warps"]) <= config["tile"]
        and held(problem, config) <= (_HELD if config["heads"] <= 2 else _HELD // 2)
    )


def holds_all(problem: Attention, config: Mapping[str, Any]) -> bool:
    """Whether programs have asked for all of their shares before they wait, whoever multiplies."""
    if config["algorithm"] == REGISTERS:
        return problem.reach <= config["tile"] * config["splits"]
    return config["stages"] == 1 if config["algorithm"] == TENSOR_CORES else one_pass(problem, config)


def _whole_groups(config: Mapping[str, Any], group: int) -> bool:
    return config["heads"] == group and (config["combine"] == "kernel" or config["splits"] == 1)


def _each(problem: Attention) -> tuple[int, ...]:
    """Positions of a warp's tile in registers: 16 of 256 elements are 64 words of keys and values."""
    return (16,) if power_of_two(problem.head_dim) > 128 else (16, 32)


def _tensor_cores(problem: Attention, device: Device) -> bool:
    """Whether they are worth a try: from Ampere on, beyond short contexts, for 2 to 8 heads a key, whose two rows each
    are one tensor core's. Of wider heads, queries alone fill the registers."""
    shared = problem.heads // problem.kv_heads
    fits = 2 <= shared <= 8 and 64 <= problem.head_dim <= 256
    return float(device.capability) >= 8.0 and problem.reach > _SHORT and fits


def _tiles_fit(problem: Attention, device: Device, config: Mapping[str, Any]) -> bool:
    """Tensor cores' tiles: 8 positions and 8 elements or more a warp, enough to be worth a turn of the loop, which take
    no more registers, or no more shared memory, than there are. Of programs that loop, up to two a multiprocessor, for
    half of the multiprocessors at least: more of them begin and end for no more bytes on their way."""
    dims, stages = power_of_two(problem.head_dim), config["stages"]
    wide = config["warps"] >= 4 and min(config["tile"], dims) >= 8 * config["warps"]
    if not wide or held(problem, config) < _HELD // 2:
        return False
    if stages == 1:
        return problem.reach <= config["tile"] * config["splits"] and held(problem, config) <= 2 * _HELD
    programs = config["splits"] * problem.kv_heads
    if not device.units // 2 <= programs <= max(2 * device.units, problem.kv_heads):
        return False
    return 4 * dims * config["tile"] * stages <= _shared_bytes(device)


def _shared_bytes(device: Device) -> int:
    """Shared memory that a program may fill with keys and values."""
    return {"8.0": 160, "8.7": 160, "9.0": 200, "10.0": 200, "10.3": 200}.get(device.capability, 96) << 10


def held(problem: Attention, config: Mapping[str, Any]) -> int:
    """Elements of a tile's keys that a thread holds; as many of the values."""
    return config["tile"] * power_of_two(problem.head_dim) // (32 * config["warps"])


def _most_rows(heads: int) -> int:
    """Of keys and values that a thread has registers for beside so many heads' queries and outputs."""
    return max(_ROOM - power_of_two(heads), 4)


def _rows(problem: Attention, config: Mapping[str, Any]) -> int:
    return config["tile"] // max(1, slots(problem, config["warps"]))


def _untuned(problem: Attention, device: Device, splits: list[int]) -> dict[str, Any]:
    """Everything at once, by as few programs a head as can, while all of them are resident together: it is up to twice
    as fast as a loop, and half as fast when some programs have to wait for others (docs/log.md). First a program a
    head, of half the positions where there is room for twice the programs, then one for all heads that share a key
    head. Longer contexts: some 64 positions a program, as long as there is room for programs."""
    dims, group = power_of_two(problem.head_dim), problem.heads // problem.kv_heads
    if problem.cache == cache.Q8_0 and problem.reach > 2 * _SHORT and _tensor_cores(problem, device):
        return _untuned_registers(problem, device, splits)
    if group >= _MANY and problem.reach > 2 * _SHORT and _tensor_cores(problem, device) and waits_early(device):
        chosen = _untuned_tensor_cores(problem, device, splits)
        if chosen is not None:
            return chosen
    together = _HELD if group <= 2 else _HELD // 2
    longest, most_splits = problem.reach, splits[-1]
    tries = (  # warps, heads of a program, elements that a thread holds; up to so many positions, and splits
        (8, 1, _HELD, _SHORT, most_splits),
        (4, 1, _HELD // 2, longest, _JOINED),
        (4, 1, _HELD, longest, most_splits),
        (4, group, together, longest, most_splits),
    )
    for warps, heads, elements, positions, joined in tries:
        tile = min(elements * 32 * warps // dims, 256)
        needed = power_of_two(-(-problem.reach // tile))
        once = {
            "algorithm": THREADS, "tile": tile, "warps": warps, "splits": needed, "heads": heads, "stages": 1,
        }  # fmt: skip
        programs = problem.heads // heads * -(-problem.typical.reach // tile)
        resident = (2 if elements == _HELD else 3) * 4 // warps * device.units
        fits = problem.reach <= positions and programs <= resident and needed in splits and needed <= joined
        if fits and one_pass(problem, once):
            return once | {"combine": "last" if problem.reach <= _SHORT else "kernel"}
    warps = 4
    if 16 // max(slots(problem, warps), 1) > _most_rows(group):
        warps = 8  # heads of 512 elements, many of which share a key
    rows, each, resident = 4, 64, 4  # of a thread; positions a program; programs a multiprocessor
    if dims > 128 and group >= _MANY and _most_rows(group) >= 8 and waits_early(device):
        rows, each, resident = 8, 32, 2
    busy = max(1, min(problem.reach // each, resident * device.units // problem.kv_heads))
    tile = min(max(rows * slots(problem, warps), 16), 128)
    count = max(s for s in splits if s <= busy and s // 2 * tile < problem.reach)
    return {
        "algorithm": THREADS,
        "tile": tile,
        "warps": warps,
        "stages": 1,
        "splits": count,
        "heads": problem.heads // problem.kv_heads,
        "combine": "kernel" if count > 8 else "last",
    }


def _untuned_tensor_cores(problem: Attention, device: Device, splits: list[int]) -> dict[str, Any] | None:
    """Shares of one tile, as long as programs that are resident together have all positions; if there are many more, a
    program each multiprocessor, which loops with four tiles on their way. None in between, and for heads of more than
    128 elements, whose tiles are faster alone and slower in a layer (docs/log.md)."""
    if power_of_two(problem.head_dim) > 128:
        return None
    chosen = {"algorithm": TENSOR_CORES, "heads": problem.heads // problem.kv_heads, "combine": "kernel"}
    for tile in (128, 256):
        needed = power_of_two(-(-problem.reach // tile))
        once = chosen | {"tile": tile, "warps": 8, "stages": 1, "splits": needed}
        programs = problem.kv_heads * -(-problem.typical.reach // tile)
        fits = needed in splits and programs <= 2 * device.units and held(problem, once) <= _HELD
        if fits and _tiles_fit(problem, device, once):
            return once
    count = max(s for s in splits if s == 1 or s * problem.kv_heads <= device.units)
    loop = chosen | {"tile": 64, "warps": 4, "stages": 4, "splits": count, "combine": "kernel" if count > 1 else "last"}
    return loop if problem.reach > _DEEP and _tiles_fit(problem, device, loop) else None


def _untuned_registers(problem: Attention, device: Device, splits: list[int]) -> dict[str, Any]:
    """As many programs of four warps as are resident together, of a tile or more."""
    warps, tile = 4, 4 * max(_each(problem))
    programs = _RESIDENT // warps * device.units
    count = max(s for s in splits if s == 1 or (s * problem.kv_heads <= programs and s // 2 * tile < problem.reach))
    return {
        "algorithm": REGISTERS, "tile": tile, "warps": warps, "stages": 1, "splits": count,
        "heads": problem.heads // problem.kv_heads, "combine": "kernel" if count > 1 else "last",
    }  # fmt: skip


def slots(problem: Attention, warps: int) -> int:
    """Cached positions that `warps` warps of a GPU read side by side, 16 bytes a thread; 0 if one fills more."""
    return warps * 32 * (8 if problem.cache == cache.F16 else 16) // power_of_two(problem.head_dim)


def power_of_two(n: int) -> int:
    """The next power of two: Triton's blocks have no other sizes."""
    return 1 << (n - 1).bit_length()
