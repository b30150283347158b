"""A lower bound on a candidate's time, from what its machine code and its grid cannot avoid."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.screening.binary import KernelResources
from autotune.screening.chips import Chip
from autotune.screening.occupancy import Occupancy, occupancy

SCHEDULERS = 4  # of a multiprocessor, each issues an instruction of one warp a cycle (from Volta on)


@dataclass(frozen=True)
class Estimate:
    """Nanoseconds. memory: the problem's bytes at the chip's bandwidth; issue: the busiest multiprocessor's
    instructions; latency: its programs' chains of waiting, one round after the other."""

    memory: float
    issue: float
    latency: float

    @property
    def bound(self) -> float:
        return max(self.memory, self.issue, self.latency)

    @property
    def busy(self) -> float:
        """Issuing and waiting together, which a bound may not add up, but a program of few warps must. Of two
        candidates that move the same bytes the one that has less of it is usually the faster one."""
        return self.issue + self.latency

    @property
    def limit(self) -> str:
        """What the bound comes from."""
        return max(("memory", "issue", "latency"), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Kernel:
    """One kernel of a candidate as screening sees it. rounds: how often the busiest multiprocessor is filled."""

    resources: KernelResources
    occupancy: Occupancy
    rounds: int
    issue_ns: float
    latency_ns: float


def kernel(resources: KernelResources, chip: Chip) -> Kernel:
    """Raises ValueError for a chip that is not known."""
    held = occupancy(chip.capability, resources.threads, resources.registers, resources.shared)
    busiest = -(-resources.programs // chip.multiprocessors)
    rounds = -(-busiest // held.programs) if held.programs else 0
    warps = -(-busiest * (resources.threads // 32) // SCHEDULERS)
    issue = warps * resources.code.issue / chip.clock
    latency = (max(0, rounds - 1) * resources.code.chain + resources.code.after) / chip.clock
    return Kernel(resources, held, rounds, issue, latency)


def estimate(kernels: Sequence[Kernel], work_bytes: int, chip: Chip) -> Estimate:
    """Of a call of all kernels, one after the other."""
    return Estimate(work_bytes / chip.bandwidth, sum(k.issue_ns for k in kernels), sum(k.latency_ns for k in kernels))
