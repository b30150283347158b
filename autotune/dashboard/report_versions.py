"""Reports as versions of one program: which kernel of one is which of the next, and whether it got faster."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from autotune.dashboard.kernel_groups import KernelTime, kernel_times
from autotune.dashboard.kernel_names import path_of
from autotune.dashboard.noise import Comparison, Noise, compare, launch_noise, of_launches
from autotune.dashboard.own_profiles import recorded_here
from autotune.dashboard.page_data import Database, PageData, ProfiledLaunch, launch_time, profiled_launches
from tuning_db.profile_records import Profile
from tuning_db.trace_records import Trace


@dataclass(frozen=True, eq=False)
class Version:
    """One report. name: unique among the versions; entries: its kernels with counters; kernels: all, by name."""

    name: str
    profile: Profile
    trace: Trace
    entries: tuple[ProfiledLaunch, ...]
    kernels: tuple[KernelTime, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """One kernel through several versions. places: in the list of versions, ascending, one for each entry; how: what
    it was recognized by, in words."""

    entries: tuple[ProfiledLaunch, ...]
    places: tuple[int, ...]
    how: str

    @property
    def ns(self) -> float:
        """Time of the version where it takes longest; 0 if unknown."""
        return max((entry.time_ns or 0.0) * len(entry.alike) for entry in self.entries)


def versions(data: PageData) -> list[Version]:
    """The reports of the database to compare with first, then those of the database; by when they were recorded where
    all say it, else as they were imported. Without those of `autotune profile`, which are no program: they are compared
    problem by problem."""
    found: list[Version] = []
    names: Counter[str] = Counter()
    for database in (data.against, data.database):
        if database is None:
            continue
        for profile, trace in _in_order(database):
            file = profile.provenance.file
            names[file] += 1
            name = file if names[file] == 1 else f"{file} ({names[file]})"
            own = database is data.database  # whose launches are diagnosed already
            entries = [e for e in data.profiled if e.profile is profile] if own else profiled_launches(profile)
            found.append(Version(name, profile, trace, tuple(entries), tuple(kernel_times(profile, trace))))
    return found


def _in_order(database: Database) -> list[tuple[Profile, Trace]]:
    pairs = [pair for pair in zip(database.profiles, database.traces, strict=True) if not recorded_here(pair[0])]
    if all(profile.provenance.recorded_at for profile, _ in pairs):
        pairs.sort(key=lambda pair: pair[0].provenance.recorded_at or "")
    return pairs


# What makes two kernels of different reports the same one, the surest first.
_WAYS: tuple[tuple[str, Callable[[ProfiledLaunch], Hashable]], ...] = (
    ("the same name and sizes", lambda e: (e.launch.kernel, e.launch.grid, e.launch.block, e.launch.problem,
                                           e.launch.role)),
    ("the same problem", lambda e: (e.launch.kernel, e.launch.problem, e.launch.role) if e.launch.problem else e),
    ("the same name", lambda e: e.launch.kernel),
    ("the same name but for its arguments", lambda e: path_of(e.launch.kernel)),
    ("the only kernel of each report", lambda e: None),
)  # fmt: skip


def series(found: Sequence[Version]) -> list[Series]:
    """Kernels that at least two versions have, those with most time first. What two kernels of one report share tells
    neither from the other, so it recognizes none."""
    left = {(place, number) for place, version in enumerate(found) for number in range(len(version.entries))}
    made = []
    for how, key_of in _WAYS:
        by_key: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
        for place, number in sorted(left):
            by_key[key_of(found[place].entries[number])].append((place, number))
        for places in by_key.values():
            alone = how != _WAYS[-1][0] or all(len(found[place].entries) == 1 for place, _ in places)
            if len(places) > 1 and alone and len({place for place, _ in places}) == len(places):
                entries = tuple(found[place].entries[number] for place, number in places)
                made.append(Series(entries, tuple(place for place, _ in places), how))
                left -= set(places)
    return sorted(made, key=lambda one: (-one.ns, one.entries[0].launch.kernel))


def noise_of(found: Sequence[Version]) -> Noise:
    """The noise of single launches, from those that are alike within a report."""
    return launch_noise([times(entry) for version in found for entry in version.entries])


def times(entry: ProfiledLaunch) -> list[float]:
    """Nanoseconds of the launches that are alike and were timed."""
    return [time for launch in entry.alike if (time := launch_time(launch)) is not None and time > 0]


def judged(first: ProfiledLaunch, second: ProfiledLaunch, noise: Noise) -> Comparison | None:
    """None where one of them was not timed."""
    one, two = times(first), times(second)
    return compare(of_launches(one), of_launches(two), noise) if one and two else None
