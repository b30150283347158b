"""The reports of `autotune profile` as versions of their problems: what each ran with, its time and its kernels."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.dashboard import own_profiles
from autotune.dashboard.page_data import PageData, ProfiledLaunch, profiled_launches
from autotune.profiling import measured_times
from autotune.profiling.before_and_after import ROLES, chosen_role
from autotune.profiling.kernel_key import NEEDED
from tuning_db.profile_records import KernelLaunch, Profile
from tuning_db.records import Measurement


@dataclass(frozen=True, eq=False)
class Report:
    """What one `autotune profile` kept.

    name: unique among the reports; commit: of our code, "" if unknown; timed: a row for each call; entries: kernels
    with counters, none where counters could not be had.
    """

    name: str
    chip: str
    commit: str
    timed: tuple[KernelLaunch, ...]
    entries: tuple[ProfiledLaunch, ...]


@dataclass(frozen=True, eq=False)
class ProblemVersion:
    """A problem with one configuration in one report. chosen: whether it ran with this, or it is the default beside a
    winner; time: of a call, not under the profiler; needed: bytes that a call has to read and write at least; kernels:
    in the order of their launches."""

    report: Report
    role: str
    chosen: bool
    config: Mapping[str, Any]
    time: Measurement | None
    needed: float | None
    kernels: tuple[ProfiledLaunch, ...]

    @property
    def name(self) -> str:
        return f"{self.report.name}, {self.role}"


@dataclass(frozen=True, eq=False)
class ProblemSeries:
    """All versions of a problem, the default of a report before its winner."""

    problem: str
    versions: tuple[ProblemVersion, ...]

    @property
    def ends(self) -> tuple[ProblemVersion, ProblemVersion]:
        """What the problem ran with in the first report and in the last; in an only one its default and its winner."""
        chosen = [version for version in self.versions if version.chosen]
        return (chosen[0], chosen[-1]) if len(chosen) > 1 else (self.versions[0], self.versions[-1])

    @property
    def steps(self) -> list[tuple[ProblemVersion, ProblemVersion]]:
        """From report to report what the problem ran with; of the only report, from the default to the winner."""
        chosen = [version for version in self.versions if version.chosen]
        pairs = list(itertools.pairwise(chosen)) or [self.ends]
        return [*pairs, self.ends] if len(pairs) > 1 else pairs


def reports(data: PageData) -> list[Report]:
    """Those of the database to compare with first, each database's in the order they were recorded."""
    found: list[Report] = []
    names: Counter[str] = Counter()
    for database in (data.against, data.database):
        for parts in [] if database is None else own_profiles.pairs(database.profiles):
            name = measured_times.title(parts[0].provenance)
            names[name] += 1
            timed = [part for part in parts if own_profiles.is_timed(part)]
            entries = [entry for part in parts if part not in timed for entry in _entries(data, part)]
            found.append(
                Report(
                    name=name if names[name] == 1 else f"{name} ({names[name]})",
                    chip=parts[0].provenance.chip,
                    commit="".join(part.provenance.tool_version.removeprefix("commit ") for part in timed),
                    timed=tuple(row for part in timed for row in part.launches),
                    entries=tuple(entries),
                )
            )
    return found


def _entries(data: PageData, profile: Profile) -> list[ProfiledLaunch]:
    if any(profile is one for one in data.database.profiles):  # whose launches are diagnosed already
        return [entry for entry in data.profiled if entry.profile is profile]
    return profiled_launches(profile)


def problem_series(found: Sequence[Report]) -> list[ProblemSeries]:
    """Problems with at least two versions, those that take longest first."""
    launches = [launch for report in found for launch in (*report.timed, *(e.launch for e in report.entries))]
    made = []
    for problem in dict.fromkeys(launch.problem for launch in launches if launch.problem):
        versions = tuple(version for report in found for version in _versions(report, problem))
        if len(versions) > 1:
            made.append(ProblemSeries(problem, versions))
    return sorted(made, key=lambda one: (-max(v.time.median_ns if v.time else 0.0 for v in one.versions), one.problem))


def _versions(report: Report, problem: str) -> list[ProblemVersion]:
    """Default before winner."""
    chosen = chosen_role([*report.timed, *(entry.launch for entry in report.entries)], problem)
    found = []
    for role in reversed(ROLES):
        row = next((x for x in report.timed if (x.problem, x.role) == (problem, role)), None)
        kernels = tuple(e for e in report.entries if (e.launch.problem, e.launch.role) == (problem, role))
        if row is not None or kernels:
            config = (row or kernels[0].launch).config or {}
            time, needed = (measured_times.measurement(row), row.metrics.number(NEEDED)) if row else (None, None)
            found.append(ProblemVersion(report, role, role == chosen, config, time, needed, kernels))
    return found
