"""The profiler's metrics that the pages show, under the names of both of Nsight Compute's exports.

The first name is the tool's own (reports and `--page raw`), the last the label of `--page details`. Values are in base
units.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.profiling import launch_metrics as metrics
from autotune.profiling.diagnosis import BUSY
from autotune.profiling.kernel_key import NEEDED as BYTES_NEEDED
from tuning_db.profile_records import KernelLaunch

Names = tuple[str, ...]
SPEED_OF_LIGHT: dict[str, Names] = {
    "compute (SM)": (metrics.SM, "Compute (SM) Throughput"),
    "memory, all levels": ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed", "Memory Throughput"),
    "DRAM": (metrics.DRAM, "dram__throughput.avg.pct_of_peak_sustained_elapsed", "DRAM Throughput"),
    "L2 cache": (metrics.L2, "L2 Cache Throughput"),
    "L1/TEX cache": (metrics.L1, "L1/TEX Cache Throughput"),
}
OCCUPANCY: dict[str, Names] = {
    "achieved": (metrics.ACHIEVED, "Achieved Occupancy"), "theoretical": (metrics.POSSIBLE, "Theoretical Occupancy"),
}  # fmt: skip
LIMITS: dict[str, Names] = {
    resource: (f"{metrics.LIMIT}{name}", f"Block Limit {label}")
    for resource, name, label in (
        ("registers", "registers", "Registers"), ("shared memory", "shared_mem", "Shared Mem"),
        ("warps", "warps", "Warps"), ("blocks", "blocks", "SM"), ("barriers", "barriers", "Barriers"),
    )
}  # fmt: skip
LAUNCH: dict[str, Names] = {
    "duration": (metrics.DURATION, "Duration"),
    "registers a thread": ("launch__registers_per_thread", "Registers Per Thread"),
    "waves": (metrics.WAVES, "Waves Per SM"),
    "SM clock": ("smsp__cycles_elapsed.avg.per_second", "SM Frequency"),
    "DRAM clock": ("dram__cycles_elapsed.avg.per_second", "DRAM Frequency"),
}
READ: Names = (metrics.DRAM_READ,)
NEEDED: Names = (BYTES_NEEDED,)
STALL_SAMPLES = "smsp__pcsamp_warps_issue_stalled_"


@dataclass(frozen=True)
class CounterValue:
    """A metric that a launch has: its value with the name and unit that the tool gives it."""

    label: str
    name: str
    unit: str
    value: float


def find(launch: KernelLaunch, wanted: Mapping[str, Names]) -> list[CounterValue]:
    """Those of `wanted` that this launch has, in their order."""
    found = []
    for label, names in wanted.items():
        for name in names:
            value = launch.metrics.number(name)
            if value is not None:
                found.append(CounterValue(label, name, launch.metrics[name].unit, value))
                break
    return found


def one(launch: KernelLaunch, names: Names) -> CounterValue | None:
    return next(iter(find(launch, {"": names})), None)


def bound(launch: KernelLaunch) -> str | None:
    """What bounds a launch: the busiest unit where that works at BUSY or more, else latency; None without counters."""
    units = [unit for unit in find(launch, SPEED_OF_LIGHT) if unit.label != "memory, all levels"]
    if not units:
        return None
    top = max(units, key=lambda unit: unit.value)
    share = f"{top.label} {min(top.value, 100):.0f}%"
    return share if top.value >= 100 * BUSY else f"latency (busiest: {share})"


def stalls(launch: KernelLaunch) -> list[CounterValue]:
    """What warps waited for, the most first: warps stalled for an issued instruction, else samples."""
    begin, end = metrics.STALLED, metrics.PER_ISSUE
    ratios = [n for n in launch.metrics.columns.names if n.startswith(begin) and n.endswith(end)]
    names = {n.removeprefix(begin).removesuffix(end): (n,) for n in ratios}
    if not names:
        samples = [n for n in launch.metrics.columns.names if n.startswith(STALL_SAMPLES) and "not_issued" not in n]
        names = {n.removeprefix(STALL_SAMPLES): (n,) for n in samples}
    found = [f for f in find(launch, names) if f.value > 0]
    return sorted(found, key=lambda f: (-f.value, f.label))
