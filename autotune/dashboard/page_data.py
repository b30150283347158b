"""What the pages are made from: everything the database and the benchmark files say, read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from autotune.profiling.diagnosis import Finding, diagnose_all
from kernel_templates.device import Device
from tuning_db.profile_records import KernelLaunch, Profile, RowKind
from tuning_db.records import Outcome, StoredRun, StoredWinner
from tuning_db.timed_trials import TimedTrial


@dataclass(frozen=True)
class File:
    """A file that was read. name: without its folder."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, eq=False)
class RunFacts:
    """A run with its trials in the order they were recorded."""

    stored: StoredRun
    trials: tuple[TimedTrial, ...]

    @cached_property
    def ended_s(self) -> tuple[float, ...]:
        """When each trial ended, in seconds after the run's start."""
        start = datetime.fromisoformat(self.stored.started_at)
        return tuple((datetime.fromisoformat(t.created_at) - start).total_seconds() for t in self.trials)

    @cached_property
    def working(self) -> tuple[tuple[int, float], ...]:
        """(place, median ns) of the trials that worked."""
        return tuple(
            (place, t.trial.measurement.median_ns)
            for place, t in enumerate(self.trials)
            if t.trial.outcome is Outcome.OK and t.trial.measurement is not None
        )

    @cached_property
    def best_place(self) -> int | None:
        return min(self.working, key=lambda pair: pair[1])[0] if self.working else None


@dataclass(frozen=True)
class DeviceFacts:
    """ceilings: measured roofs by name, in GB/s, Gop/s and Gflop/s, without when they were measured."""

    device: Device
    ceilings: Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """One document of `autotune bench --json`, with the llama.cpp numbers that `scripts/bench_gpu` puts beside it."""

    file: File
    document: Mapping[str, Any]
    marks: Mapping[str, Any] | None = None
    date: str = ""


@dataclass(frozen=True, eq=False)
class Database:
    """One tuning database."""

    file: File
    schema: int
    devices: tuple[DeviceFacts, ...]
    runs: tuple[RunFacts, ...]
    winners: tuple[StoredWinner, ...]
    profiles: tuple[Profile, ...] = ()

    @cached_property
    def run_by_id(self) -> Mapping[int, RunFacts]:
        return {run.stored.id: run for run in self.runs}

    def read_roof(self, device: Device) -> float | None:
        """Measured GB/s of this device; None where it was not measured."""
        found = {facts.device.fingerprint: facts.ceilings.get("read_gb_s") for facts in self.devices}
        return found.get(device.fingerprint)


@dataclass(frozen=True, eq=False)
class Profiled:
    """A launch with its profile and what our own rules find wrong with it, the most likely cause first."""

    profile: Profile
    launch: KernelLaunch
    causes: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """database: what the pages show; against: another one to compare it with."""

    database: Database
    against: Database | None = None
    benches: tuple[Bench, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def profiled(self) -> tuple[Profiled, ...]:
        """Launches with counters, rules or instructions: those that the kernel's page has something to say about."""
        return tuple(
            Profiled(profile, launch, tuple(causes))
            for profile in self.database.profiles
            for launch, causes in zip(profile.launches, diagnose_all(profile.launches), strict=True)
            if launch.kind is not RowKind.TRIAL and (launch.findings or launch.lines or len(launch.metrics))
        )
