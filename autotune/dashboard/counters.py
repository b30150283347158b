"""Which of a profiler's metrics the pages speak of, under the names that its two forms of export give them.

The first name is Nsight Compute's own (reports and `--page raw`), the second the label of `--page details`. Values are
in base units. "autotune__bytes_needed" is ours: what the problem cannot do without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuning_db.profile_records import KernelLaunch

SPEED_OF_LIGHT = {
    "compute (SM)": ("sm__throughput.avg.pct_of_peak_sustained_elapsed", "Compute (SM) Throughput"),
    "memory, all levels": ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed", "Memory Throughput"),
    "DRAM": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "DRAM Throughput",
    ),
    "L2 cache": ("lts__throughput.avg.pct_of_peak_sustained_elapsed", "L2 Cache Throughput"),
    "L1/TEX cache": ("l1tex__throughput.avg.pct_of_peak_sustained_active", "L1/TEX Cache Throughput"),
}  # fmt: skip
OCCUPANCY = {
    "achieved": ("sm__warps_active.avg.pct_of_peak_sustained_active", "Achieved Occupancy"),
    "theoretical": ("sm__maximum_warps_per_active_cycle_pct", "Theoretical Occupancy"),
}
LIMITS = {
    "registers": ("launch__occupancy_limit_registers", "Block Limit Registers"),
    "shared memory": ("launch__occupancy_limit_shared_mem", "Block Limit Shared Mem"),
    "warps": ("launch__occupancy_limit_warps", "Block Limit Warps"),
    "blocks": ("launch__occupancy_limit_blocks", "Block Limit SM"),
    "barriers": ("launch__occupancy_limit_barriers", "Block Limit Barriers"),
}
FACTS = {
    "duration": ("gpu__time_duration.sum", "Duration"),
    "registers a thread": ("launch__registers_per_thread", "Registers Per Thread"),
    "waves": ("launch__waves_per_multiprocessor", "Waves Per SM"),
    "SM clock": ("smsp__cycles_elapsed.avg.per_second", "SM Frequency"),
    "DRAM clock": ("dram__cycles_elapsed.avg.per_second", "DRAM Frequency"),
}
READ = ("dram__bytes_read.sum",)
NEEDED = ("autotune__bytes_needed",)
STALL_RATIO = ("smsp__average_warps_issue_stalled_", "_per_issue_active.ratio")
STALL_SAMPLES = "smsp__pcsamp_warps_issue_stalled_"


@dataclass(frozen=True)
class Found:
    """A metric that a launch has: its value with the name and unit that the tool gives it."""

    label: str
    name: str
    unit: str
    value: float


def find(launch: KernelLaunch, wanted: Mapping[str, tuple[str, ...]]) -> list[Found]:
    """Those of `wanted` that this launch has, in their order."""
    found = []
    for label, names in wanted.items():
        for name in names:
            value = launch.metrics.number(name)
            if value is not None:
                found.append(Found(label, name, launch.metrics[name].unit, value))
                break
    return found


def one(launch: KernelLaunch, names: tuple[str, ...]) -> Found | None:
    return next(iter(find(launch, {"": names})), None)


def stalls(launch: KernelLaunch) -> list[Found]:
    """What warps waited for, the most first: warps stalled for an issued instruction, else samples."""
    begin, end = STALL_RATIO
    ratios = [n for n in launch.metrics.columns.names if n.startswith(begin) and n.endswith(end)]
    names = {n.removeprefix(begin).removesuffix(end): (n,) for n in ratios}
    if not names:
        samples = [n for n in launch.metrics.columns.names if n.startswith(STALL_SAMPLES) and "not_issued" not in n]
        names = {n.removeprefix(STALL_SAMPLES): (n,) for n in samples}
    found = [f for f in find(launch, names) if f.value > 0]
    return sorted(found, key=lambda f: (-f.value, f.label))
