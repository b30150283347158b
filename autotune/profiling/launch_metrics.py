"""One launch's metrics as the rules of diagnosis use them: Nsight Compute's by name, and those derived from several."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from autotune.profiling.kernel_key import NEEDED
from tuning_db.profile_records import KernelLaunch, Metric

SECTOR = 32  # bytes
DURATION = "gpu__time_duration.sum"
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
L1 = "l1tex__throughput.avg.pct_of_peak_sustained_active"
L2 = "lts__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"
MEMORY = "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"  # the busiest of all levels
BEFORE = {DRAM: "dram__throughput.avg.pct_of_peak_sustained_elapsed"}  # what reports until 2020 have instead
DRAM_READ, DRAM_WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
FETCHED, SENT = "l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum"  # L2 and back
GRID, BLOCK, WAVES = "launch__grid_size", "launch__block_size", "launch__waves_per_multiprocessor"
UNITS, UNITS_OF_DEVICE = "launch__sm_count", "device__attribute_multiprocessor_count"
MOST_BLOCKS, WARP = 32, 32  # blocks that a multiprocessor of any GPU holds at most, lanes of a warp
POSSIBLE = "sm__maximum_warps_per_active_cycle_pct"  # occupancy that the launch allows
ACHIEVED = "sm__warps_active.avg.pct_of_peak_sustained_active"
ACTIVE, ELAPSED = "sm__cycles_active.avg", "sm__cycles_elapsed.max"
LIMIT = "launch__occupancy_limit_"
STALLED = "smsp__average_warps_issue_stalled_"
PER_ISSUE = "_per_issue_active.ratio"
REQUESTS = "l1tex__t_requests_pipe_lsu_mem_"
SECTORS = "l1tex__t_sectors_pipe_lsu_mem_"
CONFLICTS = "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"
WAVEFRONTS = "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"
ACTUAL, IDEAL = "memory_l2_theoretical_sectors_global", "memory_l2_theoretical_sectors_global_ideal"


@dataclass(frozen=True)
class LaunchMetrics:
    """One launch's metrics. Shares are of 1, None where the report has not what they need."""

    launch: KernelLaunch

    def number(self, name: str) -> float | None:
        return self.launch.metrics.number(name)

    def total(self, names: Iterable[str]) -> float | None:
        """The sum of all of these; None where one was not counted."""
        values = [self.number(name) for name in names]
        return None if any(value is None for value in values) else sum(value for value in values if value is not None)

    def share(self, name: str) -> float | None:
        """A percentage as a share."""
        value = self.number(name)
        if value is None and name in BEFORE:
            value = self.number(BEFORE[name])
        return None if value is None else min(value / 100, 1.0)

    def shown(self, *names: str) -> tuple[Metric, ...]:
        """These metrics, for the reader of a finding; those that the report has."""
        known = (name if name in self.launch.metrics else BEFORE.get(name, name) for name in names)
        return tuple(self.launch.metrics[name] for name in known if name in self.launch.metrics)

    @property
    def memory(self) -> float | None:
        """Utilization of the busiest level of the memory."""
        levels = [share for name in (L1, L2, DRAM) if (share := self.share(name)) is not None]
        if len(levels) < 3:  # a level that was not counted may be the busiest
            overall = self.share(MEMORY)
            return None if overall is None else max([overall, *levels])
        return max(levels)

    @property
    def busiest(self) -> float | None:
        """Utilization of the busiest unit of all."""
        arithmetic, memory = self.share(SM), self.memory
        return None if arithmetic is None or memory is None else max(arithmetic, memory)

    @property
    def traffic(self) -> float | None:
        """Bytes read from and written to DRAM."""
        return self.total((DRAM_READ, DRAM_WRITE))

    @property
    def read(self) -> float | None:
        """Bytes that multiprocessors took from the second-level cache; from DRAM where that was not counted."""
        fetched = self.number(FETCHED)
        return self.number(DRAM_READ) if fetched is None else fetched

    @property
    def written(self) -> float | None:
        """Bytes that they sent there. Some of it reaches DRAM only after the launch, so DRAM would count less."""
        sent = self.number(SENT)
        return self.number(DRAM_WRITE) if sent is None else sent

    @property
    def waves(self) -> float | None:
        """Waves: how often the grid fills the GPU, from its sizes, since a CSV rounds the metric to two digits."""
        limits, blocks = self.limits(), self.number(GRID)
        if limits and blocks and self.units and min(limits.values()):
            return blocks / (min(limits.values()) * self.units)
        return self.number(WAVES)

    @property
    def needed(self) -> float | None:
        return self.number(NEEDED)

    @property
    def useful(self) -> float | None:
        """The share of the bytes moved for global memory that threads asked for."""
        actual, ideal = self.number(ACTUAL), self.number(IDEAL)
        return None if actual is None or ideal is None else min(ideal / actual, 1.0) if actual else 1.0

    @property
    def local(self) -> float | None:
        """The share of the sectors asked of the first-level cache that are local memory's: mostly spilled registers."""
        spilled = self.total(f"{SECTORS}local_op_{op}.sum" for op in ("ld", "st"))
        rest = self.total(f"{SECTORS}global_op_{op}.sum" for op in ("ld", "st", "atom", "red"))
        return _share_of(spilled, rest)

    @property
    def atomic(self) -> float | None:
        """The share of the requests to global memory that are atomic operations."""
        atomics = self.total(f"{REQUESTS}global_op_{op}.sum" for op in ("atom", "red"))
        rest = self.total(f"{REQUESTS}global_op_{op}.sum" for op in ("ld", "st"))
        return _share_of(atomics, rest)

    @property
    def units(self) -> float | None:
        """Multiprocessors of the GPU. Reports of 2023 and before have them among the device's attributes only."""
        counted = self.number(UNITS)
        return self.number(UNITS_OF_DEVICE) if counted is None else counted

    @property
    def least_units(self) -> float | None:
        """Multiprocessors that the GPU has at least: how many, or else by what the grid fills of it."""
        blocks, waves = self.number(GRID), self.number(WAVES)
        if self.units is not None or not blocks or not waves:
            return self.units
        fitting = min([MOST_BLOCKS, *(limit for limit in self.limits().values() if limit > 0)])
        return math.ceil(blocks / waves / fitting - 1e-6)

    @property
    def idle_lanes(self) -> float | None:
        """The share of the lanes of a block's warps that have no thread."""
        threads = self.number(BLOCK)
        return None if not threads else 1 - threads / (WARP * math.ceil(threads / WARP))

    def limiter(self) -> str | None:
        """The resource that allows the fewest blocks on a multiprocessor, such as "registers" or "shared_mem"."""
        limits = self.limits()
        return min(limits, key=limits.__getitem__) if limits else None

    def limits(self) -> dict[str, float]:
        """Blocks that a multiprocessor can hold, by what would allow no more."""
        return {
            name.removeprefix(LIMIT): value
            for name in self.launch.metrics
            if name.startswith(LIMIT) and (value := self.number(name)) is not None
        }

    def stall(self) -> tuple[str, float] | None:
        """Why warps waited most, and the share of the time between two instructions of a warp that this took."""
        times = {
            name.removeprefix(STALLED).removesuffix(PER_ISSUE): value
            for name in self.launch.metrics
            if name.startswith(STALLED) and name.endswith(PER_ISSUE) and (value := self.number(name)) is not None
        }
        waits = {name: value for name, value in times.items() if name not in ("selected", "not_selected")}
        if not waits or not sum(times.values()):
            return None
        worst = max(waits, key=waits.__getitem__)
        return worst, waits[worst] / sum(times.values())


def _share_of(part: float | None, rest: float | None) -> float | None:
    if part is None or rest is None:
        return None
    return part / (part + rest) if part else 0.0
