"""Diagnoses a launch from its metrics: what slows it down, in words, the largest estimated gain first.

Every rule looks for one cause and says how much of the time its removal would save at best, from the metrics it shows;
without them it says nothing. Two findings are no causes but bounds: a kernel that is bound by arithmetic or by memory
is as it should be, unless a cause is worth more than BOUND. What the report's own rules estimate is ranked among ours,
and marked as theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.profiling import launch_metrics
from autotune.profiling.kernel_key import NEEDED
from autotune.profiling.launch_metrics import LaunchMetrics
from autotune.profiling.round_trips import RoundTrip, round_trips
from tuning_db.profile_records import KernelLaunch, Metric, RuleFinding

BOUND = 0.2  # what a bound weighs among causes
BUSY = 0.6  # a unit used this much bounds the kernel
LEAST = 0.05  # a smaller gain is not worth a line
LATENCY = 0.1  # the weight of "warps wait", which names no cause
NVIDIA = "Nsight Compute"
# A rule of the report says what would be gained if its own metric were perfect, whatever else holds the kernel back, so
# several of them promise the same time.
THEIRS = 0.5

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
    weight: what findings are ordered by; metrics: what it was concluded from; source: whose rule it is, "" for ours."""

    cause: str
    title: str
    text: str
    gain: float
    weight: float
    metrics: tuple[Metric, ...]
    source: str = ""

    @property
    def heading(self) -> str:
        """The title, marked where the rule is not ours."""
        return f"{self.title} ({self.source}'s rule)" if self.source else self.title


def diagnose(launch: KernelLaunch) -> list[Finding]:
    """Findings about one launch by itself, the largest gain first; none for a launch without such metrics."""
    here = LaunchMetrics(launch)
    found = [rule(here) for rule in RULES]
    return _ranked([f for f in found if f is not None] + [f for rule in launch.findings if (f := _theirs(rule))])


def diagnose_all(launches: Sequence[KernelLaunch]) -> list[list[Finding]]:
    """Findings about every launch of a profile, by itself and with its neighbours."""
    beside = round_trips([LaunchMetrics(launch) for launch in launches])
    return [
        _ranked([*diagnose(launch), *([_unfused(LaunchMetrics(launch), beside[place])] if place in beside else [])])
        for place, launch in enumerate(launches)
    ]


def _ranked(found: Sequence[Finding]) -> list[Finding]:
    return sorted((f for f in found if f.weight >= LEAST), key=lambda finding: -finding.weight)


def _cause(cause: str, title: str, text: str, gain: float, metrics: tuple[Metric, ...]) -> Finding:
    return Finding(cause, title, text, gain, gain, metrics)


def _theirs(rule: RuleFinding) -> Finding | None:
    """A rule of the report itself that found something; last if it estimates no gain, as none did until 2023.

    A "local" estimate is of the part of the kernel that the rule looks at, and cannot be ranked among the others.
    """
    if rule.kind == "ok" or rule.gain_scope == "local":
        return None
    gain = min(max(rule.gain or 0.0, 0.0) / 100, 0.999)
    weight = LEAST if rule.gain is None else gain * THEIRS
    return Finding(rule.rule, rule.title, rule.text, gain, weight, rule.focus, NVIDIA)


def _uncoalesced(here: LaunchMetrics) -> Finding | None:
    if here.useful is None or here.memory is None:
        return None
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
    busy = here.share(launch_metrics.L1)
    if not conflicts or not wavefronts or busy is None:
        return None
    share = min(conflicts / wavefronts, 1.0)
    return _cause(
        "bank conflicts",
        "Threads of a warp wait for the same bank of shared memory",
        f"{share:.0%} of the passes over shared memory are repetitions, because several threads want different places "
        "in one of its 32 banks. Pad the rows of the tile, or change the order in which it is read.",
        share * busy,
        here.shown(launch_metrics.CONFLICTS, launch_metrics.WAVEFRONTS, launch_metrics.L1),
    )


def _spills(here: LaunchMetrics) -> Finding | None:
    share = here.local
    if share is None or here.memory is None:
        return None
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
    if possible is None or possible > 0.5 or here.busiest is None:
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
    blocks, units = here.number(launch_metrics.GRID), here.least_units
    if not blocks or not units or blocks >= units:
        return None
    many = f"{blocks:.0f} block{'s' * (blocks != 1)} leave{'s' * (blocks == 1)}"
    of = f"{units - blocks:.0f} of {units:.0f} multiprocessors"
    if here.units is None:
        of = f"at least {of}"
    return _cause(
        "latency-bound tiny grid",
        "There are fewer blocks than multiprocessors",
        f"{many} {of} without work, and each waits for its own memory. Split the work into more blocks.",
        1 - blocks / units,
        here.shown(
            launch_metrics.GRID, launch_metrics.UNITS, launch_metrics.UNITS_OF_DEVICE, launch_metrics.WAVES,
            launch_metrics.DRAM,
        ),
    )  # fmt: skip


def _block_size(here: LaunchMetrics) -> Finding | None:
    threads, idle = here.number(launch_metrics.BLOCK), here.idle_lanes
    if not threads or not idle:
        return None
    return _cause(
        "block size",
        "Blocks do not fill their warps",
        f"A block has {threads:.0f} thread{'s' * (threads != 1)}, and a warp takes {launch_metrics.WARP} through every "
        f"instruction: {idle:.0%} of what its warps could do is not used. Choose a multiple of {launch_metrics.WARP}.",
        idle * (1 - (here.share(launch_metrics.DRAM) or 0.0)),
        here.shown(launch_metrics.BLOCK, launch_metrics.GRID, launch_metrics.DRAM),
    )


def _redundant_reads(here: LaunchMetrics) -> Finding | None:
    busy = here.share(launch_metrics.DRAM)
    if not here.needed or here.local is None or here.useful is None or here.traffic is None or busy is None:
        return None
    # What spilling or scattered reads move is those rules' business.
    if here.local > 0.2:
        return None
    ratio = here.traffic * here.useful / here.needed
    if ratio < 1.5:
        return None
    return _cause(
        "redundant reads",
        "The same bytes come from memory several times",
        f"DRAM moved {here.traffic / 1e6:.1f} MB, and {here.needed / 1e6:.1f} MB have to be read and written: "
        f"{here.traffic / here.needed:.1f} times as much. Let one block use what it has read for all that needs it.",
        (1 - 1 / ratio) * busy,
        here.shown(launch_metrics.DRAM_READ, launch_metrics.DRAM_WRITE, NEEDED, launch_metrics.DRAM),
    )


def _atomics(here: LaunchMetrics) -> Finding | None:
    share, busy = here.atomic, here.share(launch_metrics.DRAM)
    if share is None or share < 0.2 or busy is None:
        return None
    return _cause(
        "atomics",
        "Threads wait for each other at atomic operations",
        f"{share:.0%} of the requests to global memory are atomic, and those that meet at one place are done one after "
        "the other. Add up within a block first, and let one thread of it do the atomic operation.",
        share * (1 - busy),
        here.shown(
            *(f"{launch_metrics.REQUESTS}global_op_{op}.sum" for op in ("atom", "red", "ld", "st")), launch_metrics.DRAM
        ),
    )


def _compute_bound(here: LaunchMetrics) -> Finding | None:
    busy = here.share(launch_metrics.SM)
    if busy is None or here.memory is None or busy < BUSY or busy < here.memory:
        return None
    text = (
        f"The multiprocessors' busiest unit works at {busy:.0%} of what it can do, memory at {here.memory:.0%}. "
        "Only fewer or cheaper instructions make it faster."
    )
    metrics = here.shown(launch_metrics.SM, launch_metrics.L1, launch_metrics.L2, launch_metrics.DRAM)
    return Finding("compute-bound", "Bound by arithmetic", text, 0.0, BOUND, metrics)


def _memory_bound(here: LaunchMetrics) -> Finding | None:
    """By the busiest level that was counted, if arithmetic is not busier."""
    levels = {"DRAM": launch_metrics.DRAM, "L2": launch_metrics.L2, "L1": launch_metrics.L1}
    shares = {name: share for name, metric in levels.items() if (share := here.share(metric)) is not None}
    arithmetic = here.share(launch_metrics.SM)
    if not shares or arithmetic is None:
        return None
    level = max(shares, key=shares.__getitem__)
    if shares[level] < max(BUSY, arithmetic):
        return None
    text = f"{level} works at {shares[level]:.0%} of what it can do. {_LESS[level]}"
    metrics = here.shown(launch_metrics.DRAM, launch_metrics.L2, launch_metrics.L1, launch_metrics.SM)
    return Finding("memory-bound", f"Bound by the bandwidth of {level}", text, 0.0, BOUND, metrics)


_LESS = {
    "DRAM": "Only fewer bytes make it faster.",
    "L2": "Only fewer bytes make it faster.",
    "L1": "Only fewer accesses to L1 and shared memory make it faster: keep in registers what a thread uses again, and "
    "load several neighbouring values at once.",
}


def _latency_bound(here: LaunchMetrics) -> Finding | None:
    stall = here.stall()
    if stall is None or here.busiest is None or here.busiest >= BUSY:
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


def _unfused(here: LaunchMetrics, trip: RoundTrip) -> Finding:
    return _cause(
        "unfused round trip",
        "One kernel writes to memory what the next reads back",
        f"{trip.first} writes {trip.written / 1e6:.1f} MB and {trip.second} reads {trip.read / 1e6:.1f} MB right after "
        "it: the same data, by its size. One kernel that does both keeps it in registers.",
        trip.gain,
        here.shown(launch_metrics.FETCHED, launch_metrics.SENT, launch_metrics.DRAM),
    )


RULES: tuple[Callable[[LaunchMetrics], Finding | None], ...] = (
    _uncoalesced, _bank_conflicts, _spills, _low_occupancy, _tail_wave, _tiny_grid, _block_size,
    _redundant_reads, _atomics,
    _compute_bound, _memory_bound, _latency_bound,
)  # fmt: skip
