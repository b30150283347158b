"""Timelines of kernels: from a profile with start times, or a token's kernels as the benchmark timed them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from autotune.benchmarking.benchmark_result import SIDES, KernelTime, ModelBenchmark
from autotune.dashboard.page_data import PageData
from tuning_db.profile_records import Profile


@dataclass(frozen=True)
class Event:
    """Microseconds; about: what else a reader may want to know."""

    track: str
    name: str
    begin: float
    end: float
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """gaps: while nothing ran in any stream, in microseconds; note: how the times came about."""

    name: str
    events: tuple[Event, ...]
    note: str

    @property
    def length(self) -> float:
        return max((e.end for e in self.events), default=0.0) - min((e.begin for e in self.events), default=0.0)

    @property
    def gaps(self) -> float:
        covered, until = 0.0, float("-inf")
        for event in sorted(self.events, key=lambda e: e.begin):
            covered += max(0.0, event.end - max(event.begin, until))
            until = max(until, event.end)
        return self.length - covered


def timelines(data: PageData) -> list[Timeline]:
    """Recorded ones first."""
    recorded = [found for p in data.database.profiles if (found := of_profile(p)) is not None]
    return recorded + [of_benchmark(file.result, side) for file in data.benchmarks for side in SIDES]


def of_profile(profile: Profile) -> Timeline | None:
    """None where the launches have no start times."""
    launches = [launch for launch in profile.launches if launch.start_ns is not None and launch.duration_ns is not None]
    if not launches:
        return None
    first = min(launch.start_ns or 0 for launch in launches)
    events = []
    for launch in launches:
        begin = ((launch.start_ns or 0) - first) / 1e3
        about = {
            "problem": launch.problem,
            "range": None if launch.range is None else profile.ranges[launch.range].name,
        }
        events.append(
            Event(
                f"stream {launch.stream if launch.stream is not None else '?'}", launch.kernel, begin,
                begin + (launch.duration_ns or 0.0) / 1e3, {k: v for k, v in about.items() if v},
            )
        )  # fmt: skip
    return Timeline(profile.provenance.file, tuple(events), "start times as recorded")


def of_benchmark(result: ModelBenchmark, side: str) -> Timeline:
    """One kernel after the other, each as long as its launches of all layers together took."""
    at, events = 0.0, []
    for row in result.sides[side].kernels:
        if row.kernel == KernelTime.TOKEN:
            continue
        about = {"launches": row.count, "bytes": row.bytes}
        events.append(Event(side, row.kernel, at, at + row.us, {k: v for k, v in about.items() if v is not None}))
        at += row.us
    how = "captured alone, laid end to end: in a token they alternate and overlap"
    if not result.captured_alone:
        how = "timed inside the token, laid end to end: in a token they alternate"
    return Timeline(f"{result.model}, {side}", tuple(events), f"each kernel's launches of all layers {how}")


def perfetto(found: Iterable[Timeline]) -> str:
    """Chrome's Trace Event Format, for ui.perfetto.dev: a process for each timeline, a thread for each track."""
    events: list[dict[str, Any]] = []
    for process, timeline in enumerate(found, 1):
        named = {"name": timeline.name, "note": timeline.note}
        events.append({"ph": "M", "pid": process, "name": "process_name", "args": named})
        tracks = {track: number for number, track in enumerate(dict.fromkeys(e.track for e in timeline.events), 1)}
        for track, number in tracks.items():
            events.append({"ph": "M", "pid": process, "tid": number, "name": "thread_name", "args": {"name": track}})
        for event in timeline.events:
            events.append(
                {
                    "ph": "X", "pid": process, "tid": tracks[event.track], "name": event.name,
                    "ts": round(event.begin, 3), "dur": round(event.end - event.begin, 3), "args": event.about,
                }
            )  # fmt: skip
    return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, ensure_ascii=False, sort_keys=True)
