"""The data behind the pages: everything that the database and the files beside it say, read once."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from autotune.benchmarking.benchmark_result import ModelBenchmark
from autotune.dashboard import counters, own_profiles
from autotune.precision.precision_result import ModelPrecision
from autotune.profiling.diagnosis import Finding, diagnose_all
from kernel_templates.device import Device
from tuning_db.profile_records import KernelLaunch, Profile, RowKind
from tuning_db.records import Outcome, StoredRun, StoredWinner, searched
from tuning_db.timed_trials import TimedTrial
from tuning_db.trace_records import Trace


@dataclass(frozen=True)
class File:
    """A file that was read. name: without its folder."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, eq=False)
class RunData:
    """A run with its trials in the order they were recorded."""

    stored: StoredRun
    trials: tuple[TimedTrial, ...]

    @cached_property
    def ended_s(self) -> tuple[float, ...]:
        """When each trial ended, in seconds after the run's start."""
        start = datetime.fromisoformat(self.stored.started_at)
        return tuple((datetime.fromisoformat(t.created_at) - start).total_seconds() for t in self.trials)

    @cached_property
    def clocked(self) -> bool:
        """Whether it is known when each trial ended. Those of a run that was imported were all recorded at once, when
        it was."""
        moments = {t.created_at for t in self.trials}
        if len(self.trials) != 1:
            return len(moments) > 1
        start, ended = self.stored.started_at, self.trials[0].created_at
        return start < ended <= (self.stored.finished_at or ended)

    @cached_property
    def working(self) -> tuple[tuple[int, float], ...]:
        """(place, median ns) of the trials that worked."""
        return tuple(
            (place, t.trial.measurement.median_ns)
            for place, t in enumerate(self.trials)
            if t.trial.outcome is Outcome.OK and t.trial.measurement is not None
        )

    @cached_property
    def searched(self) -> int:
        """Configurations that the search tried; the final comparison's are no further ones."""
        return searched(timed.trial for timed in self.trials)

    @cached_property
    def best_place(self) -> int | None:
        return min(self.working, key=lambda pair: pair[1])[0] if self.working else None


@dataclass(frozen=True)
class DeviceData:
    """ceilings: measured roofs by name, in GB/s, Gop/s and Gflop/s, without when they were measured."""

    device: Device
    ceilings: Mapping[str, float]


@dataclass(frozen=True)
class Peer:
    """Another engine's tokens per second, as `scripts/bench_gpu` quotes them. decode: one rate, or a range's ends."""

    engine: str
    decode: tuple[float, ...]


@dataclass(frozen=True)
class BenchmarkFile:
    """One document of `autotune bench --json`, with the peer that `scripts/bench_gpu` puts beside it; date: "" if
    unknown."""

    file: File
    result: ModelBenchmark
    peer: Peer | None = None
    date: str = ""

    @property
    def model(self) -> str:
        return self.result.model.removesuffix(".gguf")

    @property
    def peer_ratio(self) -> float | None:
        """Tokens per second of the tuned model from an empty context ÷ the peer's."""
        return None if self.peer is None else self.result.tuned.shallowest.tok_s / max(self.peer.decode)


@dataclass(frozen=True)
class PrecisionFile:
    """One document of `autotune precision --json`."""

    file: File
    result: ModelPrecision


@dataclass(frozen=True, eq=False)
class Database:
    """One tuning database. traces: of each profile, without rows where it is no timeline."""

    file: File
    schema: int
    devices: tuple[DeviceData, ...]
    runs: tuple[RunData, ...]
    winners: tuple[StoredWinner, ...]
    profiles: tuple[Profile, ...] = ()
    traces: tuple[Trace, ...] = ()

    @cached_property
    def run_by_id(self) -> Mapping[int, RunData]:
        return {run.stored.id: run for run in self.runs}

    def read_roof(self, device: Device) -> float | None:
        """Measured GB/s of this device; None where it was not measured."""
        found = {data.device.fingerprint: data.ceilings.get("read_gb_s") for data in self.devices}
        return found.get(device.fingerprint)


@dataclass(frozen=True, eq=False)
class ProfiledLaunch:
    """A launch with its profile and what rules find wrong with it, the most likely cause first. alike: launches
    of the same kernel, sizes and configuration in that profile, this one among them and the longest."""

    profile: Profile
    launch: KernelLaunch
    causes: tuple[Finding, ...]
    alike: tuple[KernelLaunch, ...] = ()

    @property
    def time_ns(self) -> float | None:
        """Of one launch; None where nothing measured it."""
        return launch_time(self.launch)

    @cached_property
    def sampled(self) -> KernelLaunch:
        """The one of those alike whose machine code has most samples: importers read that of a few launches only."""
        return max(
            (self.launch, *self.alike), key=lambda one: (sum(line.samples for line in one.lines), len(one.lines))
        )


def launch_time(launch: KernelLaunch) -> float | None:
    """Nanoseconds of one launch, as the timeline or the counters have it; None where neither has."""
    if launch.duration_ns is not None:
        return launch.duration_ns / max(launch.count, 1)
    found = counters.one(launch, counters.LAUNCH["duration"])
    return found.value if found else None


@dataclass(frozen=True, eq=False)
class PageData:
    """database: what the pages show; against: another one to compare it with."""

    database: Database
    against: Database | None = None
    benchmarks: tuple[BenchmarkFile, ...] = ()
    precisions: tuple[PrecisionFile, ...] = ()

    @cached_property
    def profiled(self) -> tuple[ProfiledLaunch, ...]:
        """What the kernel's page has something to say about: launches with counters, rules or instructions, one of
        those that are alike; calls that were only timed where no report has their kernels."""
        twice = own_profiles.counted_too(self.database.profiles)
        wanted = [profile for profile in self.database.profiles if profile.provenance.sha256 not in twice]
        return tuple(found for profile in wanted for found in profiled_launches(profile))


def profiled_launches(profile: Profile) -> list[ProfiledLaunch]:
    """The longest of the launches that are alike, in the order in which each was first launched."""
    if not any(_telling(launch) for launch in profile.launches):
        return []  # a timeline: nothing to diagnose, and there may be 100,000
    alike: dict[tuple[object, ...], list[tuple[KernelLaunch, tuple[Finding, ...]]]] = defaultdict(list)
    for launch, causes in zip(profile.launches, diagnose_all(profile.launches), strict=True):
        if launch.kind is not RowKind.TRIAL and _telling(launch):
            config = repr(sorted(launch.config.items())) if launch.config else ""
            key = (launch.kernel, launch.grid, launch.block, launch.problem, launch.role, config)
            alike[key].append((launch, tuple(causes)))
    found = []
    for launches in alike.values():
        longest, why = max(launches, key=lambda pair: launch_time(pair[0]) or 0.0)
        found.append(ProfiledLaunch(profile, longest, why, tuple(launch for launch, _ in launches)))
    return found


def _telling(launch: KernelLaunch) -> bool:
    return bool(launch.findings or launch.lines or len(launch.metrics))
