"""What a profiler said about kernels, whatever tool and format it came from. Times are nanoseconds, sizes bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One number or word with the tool's own name for it.

    unit: in base units ("ns", "byte", "byte/s", "hz", "%", "inst", ...), "" where it has none.
    """

    name: str
    unit: str
    value: float | str


@dataclass(frozen=True)
class Columns:
    """Names and units of the numbers that the launches of one profile have in common, in the order of their values."""

    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @cached_property
    def places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.names)}


@dataclass(frozen=True, eq=False)
class Metrics(Mapping[str, Metric]):
    """The metrics of one launch by name. numbers: float64, one for each of `columns`, NaN where it has none; texts:
    those that are words."""

    columns: Columns = Columns()
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0))
    texts: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Metric:
        if name in self.texts:
            return Metric(name, "", self.texts[name])
        place = self.columns.places[name]
        value = float(self.numbers[place])
        if value != value:
            raise KeyError(name)
        return Metric(name, self.columns.units[place], value)

    def number(self, name: str) -> float | None:
        """The value of a numeric metric; None where this launch has none."""
        place = self.columns.places.get(name)
        value = float("nan") if place is None else float(self.numbers[place])
        return None if value != value else value

    def __iter__(self) -> Iterator[str]:
        yield from (name for name, value in zip(self.columns.names, self.numbers, strict=True) if value == value)
        yield from self.texts

    def __len__(self) -> int:
        return int(np.count_nonzero(~np.isnan(self.numbers))) + len(self.texts)


NO_METRICS = Metrics()


@dataclass(frozen=True)
class SourceLine:
    """One machine instruction of a kernel, with the lines it came from and what warps waited for at it.

    address: of the instruction, from the kernel's start; file, line: of the source (a key of `Profile.sources`);
    executed: by how many warps, None if not counted; stalls: samples by reason ("long_scoreboard", ...).
    """

    address: int
    sass: str
    ptx: str | None = None
    file: str | None = None
    line: int | None = None
    executed: int | None = None
    stalls: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return sum(self.stalls.values())


@dataclass(frozen=True)
class RuleFinding:
    """What one of the tool's own rules says about a launch.

    kind: "optimization", "warning", "error" or "ok"; gain: its estimate of the time saved, in percent, None if it gives
    none; gain_scope: "global", of the whole kernel, or "local", of the part that the rule looks at.
    """

    rule: str
    section: str
    kind: str
    title: str
    text: str
    gain: float | None = None
    gain_scope: str | None = None
    focus: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Range:
    """An NVTX range. parent: place in `Profile.ranges` of the range around it, None for an outermost one; start and end
    are None where the tool tells only names; style: one of PUSH_POP and START_END, "" if unknown."""

    name: str
    parent: int | None = None
    domain: str = ""
    thread: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    style: str = ""


PUSH_POP, START_END = (
    "push_pop",
    "start_end",
)  # ranges of one thread, which nest; ranges of a process, which may overlap


class RowKind(StrEnum):
    """What a row of a profile stands for."""

    KERNEL = "kernel"  # one launch of one kernel
    GRAPH = "graph"  # one launch of a whole CUDA graph, of which the tool recorded no kernels
    COPY = "copy"  # one copy of memory, or all of one direction together where it has no start
    FILL = "fill"  # one fill of memory (memset), or all together where it has no start
    SUMMARY = "summary"  # all launches of one kernel together
    TRIAL = "trial"  # one configuration that another tuner tried


@dataclass(frozen=True)
class KernelLaunch:
    """One row of a profile. duration_ns: of all `count` launches it stands for; None if not measured.

    place: in the order of the file; range: place in `Profile.ranges` of the innermost NVTX range that it was launched
    in; problem and config: ours that this kernel was launched for, role "winner" or "default" where that is known;
    device: the GPU's number in the trace (`Provenance.devices` names it); process: its number on the host; bytes: of a
    copy or fill; direction: of a copy, "HtoD", "DtoH", "DtoD", "PtoP", ...
    """

    place: int
    kernel: str
    kind: RowKind = RowKind.KERNEL
    grid: tuple[int, int, int] | None = None
    block: tuple[int, int, int] | None = None
    start_ns: int | None = None
    duration_ns: float | None = None
    count: int = 1
    stream: int | None = None
    range: int | None = None
    problem: str | None = None
    config: Mapping[str, Any] | None = None
    role: str | None = None
    metrics: Metrics = field(default_factory=lambda: NO_METRICS)
    findings: tuple[RuleFinding, ...] = ()
    lines: tuple[SourceLine, ...] = ()
    device: int | None = None
    process: int | None = None
    bytes: int | None = None
    direction: str | None = None
    called_ns: int | None = None


@dataclass(frozen=True)
class HostWait:
    """A call in which the host waited for a GPU, such as cudaDeviceSynchronize. process, thread: their numbers, None if
    unknown; the times are on the profile's clock."""

    name: str
    start_ns: int
    end_ns: int
    process: int | None = None
    thread: int | None = None


@dataclass(frozen=True)
class ReportTable:
    """A table of a profiler that is none of launches, such as the times of API calls or of NVTX ranges.

    report: the tool's name for it ("nvtx_sum"); title: for people; rows: one cell for each column, numbers in base
    units, None where it is empty.
    """

    report: str
    title: str
    columns: tuple[str, ...]
    units: tuple[str, ...]
    rows: tuple[tuple[float | str | None, ...], ...]


@dataclass(frozen=True)
class Provenance:
    """Where a profile came from.

    tool, format: such as "Nsight Compute", "ncu-rep"; found, expected: rows read and rows that the file says it has or
    had, where it says so: fewer found means a partial import; clocks: Hz by name ("sm", "dram") while it was recorded;
    fingerprint: of the Device it was recorded on, where we recorded it; recorded_at: UTC in ISO 8601, None if unknown;
    devices: names of the GPUs by `KernelLaunch.device`.
    """

    file: str
    sha256: str
    size_bytes: int
    tool: str
    format: str
    tool_version: str = ""
    chip: str = ""
    clocks: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str | None = None
    recorded_at: str | None = None
    found: int = 0
    expected: int | None = None
    note: str = ""
    devices: Mapping[int, str] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        return self.expected is not None and self.found < self.expected


@dataclass(frozen=True)
class Profile:
    """One imported file. sources: text of source files by the name that `SourceLine.file` uses."""

    provenance: Provenance
    launches: tuple[KernelLaunch, ...] = ()
    ranges: tuple[Range, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[ReportTable, ...] = ()
    waits: tuple[HostWait, ...] = ()


@dataclass(frozen=True)
class StoredProfile:
    """A profile as the database lists it, without its rows. total_ns: the sum of those of their
    durations that are known, None where none is."""

    id: int
    provenance: Provenance
    rows: int
    total_ns: float | None
    imported_at: str
