"""One launch's metrics as the rules of diagnosis use them: Nsight Compute's by name, and those derived from several."""

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
DRAM_READ, DRAM_WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
FETCHED, SENT = "l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum"  # L2 and back
GRID, UNITS, WAVES = "launch__grid_size", "launch__sm_count", "launch__waves_per_multiprocessor"
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

    def total(self, names: Iterable[str]) -> float:
        return sum(self.number(name) or 0.0 for name in names)

    def share(self, name: str) -> float | None:
        """A percentage as a share."""
        value = self.number(name)
        return None if value is None else min(value / 100, 1.0)

    def shown(self, *names: str) -> tuple[Metric, ...]:
        """These metrics, for the reader of a finding; those that the report has."""
        return tuple(self.launch.metrics[name] for name in names if name in self.launch.metrics)

    @property
    def memory(self) -> float:
        """Utilization of the busiest level of the memory, a share of 1."""
        return max(self.share(name) or 0.0 for name in (L1, L2, DRAM))

    @property
    def busiest(self) -> float:
        return max(self.memory, self.share(SM) or 0.0)

    @property
    def traffic(self) -> float:
        """Bytes read from and written to DRAM."""
        return self.total((DRAM_READ, DRAM_WRITE))

    @property
    def read(self) -> float:
        """Bytes that multiprocessors took from the second-level cache; from DRAM where that was not counted."""
        return self.number(FETCHED) or self.number(DRAM_READ) or 0.0

    @property
    def written(self) -> float:
        """Bytes that they sent there. Some of it reaches DRAM only after the launch, so DRAM would count less."""
        return self.number(SENT) or self.number(DRAM_WRITE) or 0.0

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
    def useful(self) -> float:
        """The share of the bytes moved for global memory that threads asked for; 1 where it is not known."""
        actual, ideal = self.number(ACTUAL), self.number(IDEAL)
        return min(ideal / actual, 1.0) if actual and ideal is not None else 1.0

    @property
    def local(self) -> float:
        """The share of the sectors asked of the first-level cache that are local memory's: mostly spilled registers."""
        spilled = self.total(f"{SECTORS}local_op_{op}.sum" for op in ("ld", "st"))
        rest = self.total(f"{SECTORS}global_op_{op}.sum" for op in ("ld", "st", "atom", "red"))
        return spilled / (spilled + rest) if spilled else 0.0

    @property
    def atomic(self) -> float:
        """The share of the requests to global memory that are atomic operations."""
        atomics = self.total(f"{REQUESTS}global_op_{op}.sum" for op in ("atom", "red"))
        rest = self.total(f"{REQUESTS}global_op_{op}.sum" for op in ("ld", "st"))
        return atomics / (atomics + rest) if atomics else 0.0

    @property
    def units(self) -> float | None:
        """Multiprocessors of the GPU."""
        return self.number(UNITS) or self.number("device__attribute_multiprocessor_count")

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
