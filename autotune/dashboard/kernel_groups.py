"""Kernels of imported reports by their full name: how often, how long, and what is known of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.dashboard.page_data import PageData, ProfiledLaunch, launch_time
from tuning_db.profile_records import Profile, RowKind
from tuning_db.trace_records import KINDS, Trace

RAN = (RowKind.KERNEL, RowKind.GRAPH, RowKind.SUMMARY)


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel in one report. ns: of those that were timed, None where none was; untimed: how many
    were not."""

    name: str
    count: int
    ns: float | None
    untimed: int = 0


@dataclass(frozen=True, eq=False)
class KernelGroup:
    """One kernel in all the reports given. places: in `PageData.profiled`, those with most time first; reports: files
    that have it."""

    name: str
    count: int
    ns: float | None
    untimed: int
    places: tuple[int, ...]
    reports: tuple[str, ...]

    def told(self, profiled: Sequence[ProfiledLaunch]) -> ProfiledLaunch | None:
        """The launch that says most about it: the longest with counters."""
        return profiled[self.places[0]] if self.places else None


def kernel_times(profile: Profile, trace: Trace) -> list[KernelTime]:
    """Those of the profile's launches first, then those that only the trace has."""
    count: dict[str, int] = defaultdict(int)
    time: dict[str, float] = defaultdict(float)
    untimed: dict[str, int] = defaultdict(int)
    for launch in profile.launches:
        if launch.kind not in RAN:
            continue
        count[launch.kernel] += launch.count
        one = launch_time(launch)
        if one is None:
            untimed[launch.kernel] += launch.count
        else:
            time[launch.kernel] += one * launch.count
    known = [launch.place for launch in profile.launches]
    rest = np.isin(trace.kind, [KINDS.index(kind) for kind in RAN if kind in KINDS]) & ~np.isin(trace.place, known)
    often = np.bincount(trace.name[rest], minlength=len(trace.names))
    spent = np.bincount(trace.name[rest], trace.duration_ns[rest], len(trace.names))
    for place in np.flatnonzero(often).tolist():
        count[trace.names[place]] += int(often[place])
        time[trace.names[place]] += float(spent[place])
    return [KernelTime(name, count[name], time.get(name), untimed[name]) for name in count]


def kernel_groups(data: PageData, reports: Iterable[int]) -> list[KernelGroup]:
    """Of reports by their places in the database, sorted by time, those of unknown time last."""
    numbers = list(reports)
    wanted = [data.database.profiles[number] for number in numbers]
    files = {profile.provenance.sha256 for profile in wanted}
    places: dict[str, list[int]] = defaultdict(list)
    for place, entry in enumerate(data.profiled):
        if entry.profile.provenance.sha256 in files:
            places[entry.launch.kernel].append(place)
    found: dict[str, list[tuple[str, KernelTime]]] = defaultdict(list)
    for number, profile in zip(numbers, wanted, strict=True):
        for one in kernel_times(profile, data.database.traces[number]):
            found[one.name].append((profile.provenance.file, one))
    groups = []
    for name, parts in found.items():
        times = [one.ns for _, one in parts if one.ns is not None]
        mine = sorted(places[name], key=lambda place: (-(data.profiled[place].time_ns or 0.0), place))
        groups.append(
            KernelGroup(
                name, sum(one.count for _, one in parts), sum(times) if times else None,
                sum(one.untimed for _, one in parts), tuple(mine), tuple(dict.fromkeys(file for file, _ in parts)),
            )
        )  # fmt: skip
    return sorted(groups, key=lambda group: (group.ns is None, -(group.ns or 0.0), group.name))
