"""Diagnoses a launch from its metrics: what slows it down, in words, the largest estimated gain first.

Every rule looks for one cause and says how much of the time its removal would save at best, from the metrics it shows.
Two findings are no causes but bounds: a kernel that is bound by arithmetic or by memory is as it should be, unless a
cause is worth more than BOUND.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.profiling import launch_metrics
from autotune.profiling.kernel_key import NEEDED
from autotune.profiling.launch_metrics import LaunchMetrics
from tuning_db.profile_records import KernelLaunch, Metric

BOUND = 0.2  # what a bound weighs among causes
BUSY = 0.6  # a unit used this much bounds the kernel
LEAST = 0.05  # a smaller gain is not worth a line
ALIKE = 0.15  # two amounts of data that differ by less may be the same data
LARGE = 1 << 20  # bytes: what is smaller stays in a cache anyway
LATENCY = 0.1  # the weight of "warps wait", which names no cause

STALLS = {
    "long_scoreboard": "data from memory (L1, L2 or DRAM)",
    "short_scoreboard": "shared memory or a special function",
    "barrier": "the other warps of their block",
    "lg_throttle": "room in the queue for memory instructions",
    "mio_throttle": "room in the queue for shared memory and special functions",
    "math_pipe_throttle": "an arithmetic unit",
    "membar": "a memory barrier",
    "wait": "an instruction of fixed latency before",
    "drain": "their last stores",
    "no_instruction": "instructions to be fetched",
    "branch_resolving": "a branch to be decided",
    "dispatch_stall": "the dispatcher",
    "imc_miss": "a constant to be fetched",
    "sleeping": "the end of their sleep",
    "tex_throttle": "room in the queue for texture instructions",
    "gmma": "a matrix product",
    "misc": "something the hardware does not name",
}


@dataclass(frozen=True)
class Finding:
    """cause: a short stable name; gain: the share of the launch's time that its removal saves at best, 0 for a bound;
    weight: what findings are ordered by; metrics: what it was concluded from."""

    cause: str
    title: str
    text: str
    gain: float
    weight: float
    metrics: tuple[Metric, ...]


def diagnose(
    launch: KernelLaunch, before: KernelLaunch | None = None, after: KernelLaunch | None = None
) -> list[Finding]:
    """Findings, the largest gain first; none for a launch without such metrics. before, after: its neighbours."""
    here = LaunchMetrics(launch)
    found = [rule(here) for rule in RULES]
    found.append(_round_trip(here, LaunchMetrics(before) if before else None, LaunchMetrics(after) if after else None))
    kept = [f for f in found if f is not None and f.weight >= LEAST]
    return sorted(kept, key=lambda finding: -finding.weight)


def diagnose_all(launches: Sequence[KernelLaunch]) -> list[list[Finding]]:
    """`diagnose` of every launch, each with its neighbours."""
    ends: list[KernelLaunch | None] = [None, *launches, None]
    return [diagnose(launch, before, after) for before, launch, after in zip(ends, launches, ends[2:], strict=False)]


def _cause(cause: str, title: str, text: str, gain: float, metrics: tuple[Metric, ...]) -> Finding:
    return Finding(cause, title, text, gain, gain, metrics)


def _uncoalesced(here: LaunchMetrics) -> Finding | None:
    wasted = 1 - here.useful
    return _cause(
        "uncoalesced",
        "Neighbouring threads read places that are far apart",
        f"{wasted:.0%} of the bytes moved for global memory were asked for by no thread: memory moves sectors of 32 "
        "bytes, and the threads of a warp use only a part of each. Let neighbouring threads read neighbouring places.",
        wasted * here.memory,
        here.shown(launch_metrics.ACTUAL, launch_metrics.IDEAL, launch_metrics.L2, launch_metrics.DRAM),
    )


def _bank_conflicts(here: LaunchMetrics) -> Finding | None:
    conflicts, wavefronts = here.number(launch_metrics.CONFLICTS), here.number(launch_metrics.WAVEFRONTS)
    if not conflicts or not wavefronts:
        return None
    share = min(conflicts / wavefronts, 1.0)
    return _cause(
        "bank conflicts",
        "Threads of a warp wait for the same bank of shared memory",
        f"{share:.0%} of the passes over shared memory are repetitions, because several threads want different places "
        "in one of its 32 banks. Pad the rows of the tile, or change the order in which it is read.",
        share * (here.share(launch_metrics.L1) or 0.0),
        here.shown(launch_metrics.CONFLICTS, launch_metrics.WAVEFRONTS, launch_metrics.L1),
    )


def _spills(here: LaunchMetrics) -> Finding | None:
    share = here.local
    return _cause(
        "spills",
        "Registers do not suffice, and values go to memory and back",
        f"{share:.0%} of the sectors asked of the first-level cache are of local memory, where the compiler puts what "
        "registers do not hold. Use smaller tiles or more warps a block, or allow more registers a thread.",
        share * here.memory,
        here.shown(
            f"{launch_metrics.SECTORS}local_op_ld.sum",
            f"{launch_metrics.SECTORS}local_op_st.sum",
            "launch__registers_per_thread",
            launch_metrics.L1,
        ),
    )


def _low_occupancy(here: LaunchMetrics) -> Finding | None:
    possible = here.share(launch_metrics.POSSIBLE)
    if possible is None or possible > 0.5:
        return None
    limiter = here.limiter()
    what = {"shared_mem": "shared memory", None: "resources"}.get(limiter, limiter)
    return _cause(
        "low occupancy",
        f"Too few warps fit on a multiprocessor, because of {what}",
        f"At most {possible:.0%} of the warps that a multiprocessor could hold are there to hide each other's waiting, "
        f"and no unit is busy for more than {here.busiest:.0%} of the time. Let a block use less of that.",
        (1 - here.busiest) * (1 - possible),
        here.shown(
            launch_metrics.POSSIBLE,
            launch_metrics.ACHIEVED,
            f"{launch_metrics.LIMIT}{limiter}",
            launch_metrics.SM,
            launch_metrics.DRAM,
        ),
    )


def _tail_wave(here: LaunchMetrics) -> Finding | None:
    waves, active, elapsed = here.waves, here.number(launch_metrics.ACTIVE), here.number(launch_metrics.ELAPSED)
    if waves is None or waves <= 1 or not active or not elapsed:
        return None
    whole = -(-waves // 1)
    lost = min(1 - waves / whole, 1 - min(active / elapsed, 1.0))
    return _cause(
        "tail wave",
        "The last blocks run while most of the GPU has nothing to do",
        f"The grid fills the GPU {waves:.2f} times, so it takes {whole:.0f} rounds, and multiprocessors work for "
        f"{active / elapsed:.0%} of the time. Choose blocks so that whole rounds come out, or smaller ones.",
        lost,
        here.shown(launch_metrics.WAVES, launch_metrics.GRID, launch_metrics.ACTIVE, launch_metrics.ELAPSED),
    )


def _tiny_grid(here: LaunchMetrics) -> Finding | None:
    blocks, units = here.number(launch_metrics.GRID), here.units
    if not blocks or not units or blocks >= units:
        return None
    return _cause(
        "latency-bound tiny grid",
        "There are fewer blocks than multiprocessors",
        f"{blocks:.0f} blocks leave {units - blocks:.0f} of {units:.0f} multiprocessors without work, and each waits "
        "for its own memory. Split the work into more blocks.",
        1 - blocks / units,
        here.shown(launch_metrics.GRID, launch_metrics.UNITS, launch_metrics.WAVES, launch_metrics.DRAM),
    )


def _redundant_reads(here: LaunchMetrics) -> Finding | None:
    # What spilling or scattered reads move is those rules' business.
    if not here.needed or here.local > 0.2:
        return None
    ratio = here.traffic * here.useful / here.needed
    if ratio < 1.5:
        return None
    return _cause(
        "redundant reads",
        "The same bytes come from memory several times",
        f"DRAM moved {here.traffic / 1e6:.1f} MB, and {here.needed / 1e6:.1f} MB have to be read and written: "
        f"{here.traffic / here.needed:.1f} times as much. Let one block use what it has read for all that needs it.",
        (1 - 1 / ratio) * (here.share(launch_metrics.DRAM) or 0.0),
        here.shown(launch_metrics.DRAM_READ, launch_metrics.DRAM_WRITE, NEEDED, launch_metrics.DRAM),
    )


def _atomics(here: LaunchMetrics) -> Finding | None:
    share = here.atomic
    if share < 0.2:
        return None
    return _cause(
        "atomics",
        "Threads wait for each other at atomic operations",
        f"{share:.0%} of the requests to global memory are atomic, and those that meet at one place are done one after "
        "the other. Add up within a block first, and let one thread of it do the atomic operation.",
        share * (1 - (here.share(launch_metrics.DRAM) or 0.0)),
        here.shown(
            *(f"{launch_metrics.REQUESTS}global_op_{op}.sum" for op in ("atom", "red", "ld", "st")), launch_metrics.DRAM
        ),
    )


def _compute_bound(here: LaunchMetrics) -> Finding | None:
    busy = here.share(launch_metrics.SM)
    if busy is None or busy < BUSY or busy < here.memory:
        return None
    text = (
        f"The multiprocessors' busiest unit works at {busy:.0%} of what it can do, memory at {here.memory:.0%}. "
        "Only fewer or cheaper instructions make it faster."
    )
    metrics = here.shown(launch_metrics.SM, launch_metrics.L1, launch_metrics.L2, launch_metrics.DRAM)
    return Finding("compute-bound", "Bound by arithmetic", text, 0.0, BOUND, metrics)


def _memory_bound(here: LaunchMetrics) -> Finding | None:
    levels = {
        name: here.share(level) or 0.0 for name, level in {"DRAM": launch_metrics.DRAM, "L2": launch_metrics.L2}.items()
    }
    level = max(levels, key=levels.__getitem__)
    if levels[level] < BUSY or levels[level] < (here.share(launch_metrics.SM) or 0.0):
        return None
    text = f"{level} works at {levels[level]:.0%} of what it can do. Only fewer bytes make it faster."
    metrics = here.shown(launch_metrics.DRAM, launch_metrics.L2, launch_metrics.SM)
    return Finding("memory-bound", f"Bound by the bandwidth of {level}", text, 0.0, BOUND, metrics)


def _latency_bound(here: LaunchMetrics) -> Finding | None:
    stall = here.stall()
    if here.busiest >= BUSY or stall is None:
        return None
    reason, share = stall
    text = (
        f"No unit is busy for more than {here.busiest:.0%} of the time; warps spend {share:.0%} of it waiting for "
        f"{STALLS.get(reason, reason)}. More warps, or more independent work in each, would hide that."
    )
    metrics = here.shown(
        f"{launch_metrics.STALLED}{reason}{launch_metrics.PER_ISSUE}",
        launch_metrics.ACHIEVED,
        launch_metrics.SM,
        launch_metrics.DRAM,
    )
    return Finding(
        "latency-bound", "Warps wait, and nothing is busy", text, (1 - here.busiest) * share, LATENCY, metrics
    )


def _round_trip(here: LaunchMetrics, before: LaunchMetrics | None, after: LaunchMetrics | None) -> Finding | None:
    """A neighbour reads about as much as this one writes, or has written what this one reads."""
    pairs = [(first, second) for first, second in ((before, here), (here, after)) if first and second]
    for first, second in pairs:
        written, read = first.written, second.read
        bound = min(first.share(launch_metrics.DRAM) or 0.0, second.share(launch_metrics.DRAM) or 0.0)
        if min(written, read) < LARGE or abs(written - read) > ALIKE * max(written, read) or bound < BUSY:
            continue
        saved = (written + read) / (first.read + first.written + second.read + second.written)
        names = (
            f"{first.launch.kernel} writes {written / 1e6:.1f} MB and {second.launch.kernel} reads {read / 1e6:.1f} MB"
        )
        return _cause(
            "unfused round trip",
            "One kernel writes to memory what the next reads back",
            f"{names} right after it: the same data, by its size. One kernel that does both keeps it in registers.",
            saved * bound,
            here.shown(launch_metrics.FETCHED, launch_metrics.SENT, launch_metrics.DRAM),
        )
    return None


RULES: tuple[Callable[[LaunchMetrics], Finding | None], ...] = (
    _uncoalesced, _bank_conflicts, _spills, _low_occupancy, _tail_wave, _tiny_grid, _redundant_reads, _atomics,
    _compute_bound, _memory_bound, _latency_bound,
)  # fmt: skip
