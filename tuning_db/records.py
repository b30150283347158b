"""The rows that travel between the tuner, the database and the engine. Times are nanoseconds, always."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kernel_templates.device import Device


class Outcome(StrEnum):
    """What became of a candidate."""

    OK = "ok"
    WRONG = "wrong"
    FAILED_TO_COMPILE = "failed_to_compile"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    PRUNED = "pruned"
    IMPOSSIBLE = "impossible"
    """Faster than memory allows: the measurement is at fault."""


IMPORTED = "imported: "  # what the sampler of a run of another tool begins with, before the tool's name


@dataclass(frozen=True)
class Measurement:
    """Quantiles over `samples` timed executions of one kernel call, in nanoseconds.

    state: what the device did meanwhile, as `autotune.runner.device_state` says it: clocks, temperature and power as
    [before, after], `throttled` with the reasons, `retakes`. energy_uj: microjoules of a call, idle power included.
    """

    q10_ns: float
    median_ns: float
    q90_ns: float
    samples: int
    state: Mapping[str, Any] | None = None
    energy_uj: float | None = None


class Objective(StrEnum):
    """What a search makes small: nanoseconds, microjoules, or their product."""

    TIME = "time"
    ENERGY = "energy"
    EDP = "edp"

    def of(self, measurement: Measurement | None) -> float | None:
        """None where it is not known."""
        if measurement is None or self is Objective.TIME:
            return None if measurement is None else measurement.median_ns
        energy = measurement.energy_uj
        return energy if energy is None or self is Objective.ENERGY else energy * measurement.median_ns


class TrialKind(StrEnum):
    """What a configuration was measured for."""

    SEARCH = "search"
    FINAL_COMPARISON = "final_comparison"
    """The best of a search once more, timed in turn at its end."""


@dataclass(frozen=True)
class Trial:
    """One candidate of a run. `error` is the relative error ||out - ref|| / ||ref|| against the float64 reference,
    `message` one line that says why, when the outcome is not ok."""

    config: Mapping[str, Any]
    outcome: Outcome
    measurement: Measurement | None = None
    compile_s: float | None = None
    error: float | None = None
    tolerance: float | None = None
    message: str | None = None
    kind: TrialKind = TrialKind.SEARCH


def searched(trials: Iterable[Trial]) -> int:
    """How many configurations a search tried: one that met others again at its end is no further trial."""
    return len({repr(sorted(trial.config.items())) for trial in trials if trial.kind is TrialKind.SEARCH})


@dataclass(frozen=True)
class Run:
    """One search over one problem on one device. `versions`: what could change the numbers, commit included."""

    problem: str
    template_version: int
    sampler: str
    seed: int
    space_size: int
    work_bytes: int
    work_ops: int
    versions: Mapping[str, str] = field(default_factory=dict)
    objective: Objective = Objective.TIME


class RunStatus(StrEnum):
    """How a run ended. A run whose process died without a word counts as interrupted."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    BUDGET = "budget"


@dataclass(frozen=True)
class StoredRun:
    """A run as the database knows it; timestamps are UTC in ISO 8601. trials: configurations that its search tried."""

    id: int
    uid: str
    device: Device
    run: Run
    status: RunStatus
    trials: int
    started_at: str
    finished_at: str | None

    @property
    def began_at(self) -> str | None:
        """When it started; None for a run that was imported from a file that does not say: both its times are then
        that of the import."""
        unknown = self.run.sampler.startswith(IMPORTED) and self.started_at == self.finished_at
        return None if unknown else self.started_at


@dataclass(frozen=True)
class Winner:
    """The best verified configuration of a problem on a device, and the default's time in the same run.

    reference: what it was verified against; versions: what could change its numbers; clock_mhz: of the chip while it
    was measured; each empty where unknown.
    """

    problem: str
    template_version: int
    config: Mapping[str, Any]
    measurement: Measurement
    default_ns: float | None
    error: float
    tolerance: float
    reference: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    clock_mhz: float | None = None


@dataclass(frozen=True)
class StoredWinner:
    """A winner with where it was measured and by which trial. `replaced_at`: when a later measurement took its place.

    uid, run_uid: names that are the same in every database. `current`: the fastest of those that nothing replaced.
    """

    id: int
    device: Device
    winner: Winner
    run_id: int | None
    trial_id: int | None
    created_at: str
    replaced_at: str | None
    current: bool
    uid: str
    run_uid: str | None


class Source(StrEnum):
    """Where a configuration came from, best first."""

    EXACT = "exact"
    SAME_CHIP = "same chip, other driver or compiler"
    SHIPPED = "shipped"
    NEAREST_SHAPE = "nearest shape on this chip"
    NEAREST_CHIP = "nearest chip"
    DEFAULT = "template default"


@dataclass(frozen=True)
class Lookup:
    """The answer to "which configuration for this problem here?"; `detail` names the entry or the mismatch."""

    source: Source
    winner: Winner | None
    detail: str

    @property
    def measured_here(self) -> bool:
        """Whether the winner was measured for this very problem on this very chip, and is in the user's own file."""
        return self.source in (Source.EXACT, Source.SAME_CHIP)
