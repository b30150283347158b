"""Packs a trace for the page's canvas (templates/trace.js): rows of events that do not overlap, as few bytes as may be.

Four bytes (little-endian) say how long the JSON head is that follows; behind it, for each row of the head, five columns
of its events as LEB128 numbers (7 bits a byte, the lowest first): the gap since the event before ended and its length,
both in ns; the place of its label in the head's labels; 1 + the bytes that it moved (0: unknown or none); and 1 + the
place of the NVTX range that it was launched in among the labels (0: none).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.dashboard.kernel_names import short_names
from autotune.dashboard.page_elements import Cell, Column, Table, number_cell
from autotune.profiling.trace_idle import CAUSES, Spans, without_kernel
from tuning_db.profile_records import HostWait, RowKind
from tuning_db.trace_records import KINDS, UNKNOWN, Trace

MOST_LANES = 24  # of one track, for events that overlap
MOST_ROWS = 400  # a canvas can be no taller than some 16,000 pixels
TONES = ("s0", "s2", "s5")  # of the kernels that took most time
OTHER, COPY, FILL, RANGE = "other", "s1", "s3", "range"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the picture. starts, ends, labels, sizes, ranges: one value an event, in order of time; sizes: bytes,
    ranges: places among the labels, both UNKNOWN where there is none."""

    name: str
    starts: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    ranges: np.ndarray


@dataclass(frozen=True, eq=False)
class PackedTrace:
    """content: what the module describes; legend: (tone, name); left_out: events that no row has."""

    content: bytes
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, str], ...]
    left_out: int

    def table(self, title: str) -> Table:
        columns = (
            Column("row", "", False, True), Column("events", "in the row", True),
            Column("busy", "sum of their lengths, ms", True), Column("first", "start, ms", True),
            Column("last", "end, ms", True),
        )  # fmt: skip
        rows = tuple(
            (
                Cell(row.name), number_cell(len(row.starts), 0),
                number_cell(float((row.ends - row.starts).sum()) / 1e6, 3),
                number_cell(float(row.starts[0]) / 1e6, 3), number_cell(float(row.ends[-1]) / 1e6, 3),
            )
            for row in self.rows
        )  # fmt: skip
        return Table(title, columns, rows)


class _Labels:
    """Texts with their tones, each once."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], int] = {}

    def place(self, text: str, tone: str) -> int:
        return self.places.setdefault((text, tone), len(self.places))


def pack(trace: Trace) -> PackedTrace:
    """A trace with at least one row."""
    zero = int(trace.start_ns.min())
    labels = _Labels()
    tones, legend = _tones(trace)
    of_name = np.array([labels.place(name, tone) for name, tone in zip(trace.names, tones, strict=True)], np.int64)
    of_range = np.array([labels.place(item.name or "–", RANGE) for item in trace.ranges] or [UNKNOWN], np.int64)
    in_range = np.where(trace.range == UNKNOWN, UNKNOWN, of_range[np.maximum(trace.range, 0)])
    found: list[Row] = []
    left_out, causes = 0, set[int]()
    for device in sorted(set(trace.device.tolist())):
        gpu = "GPU" if device == UNKNOWN else f"GPU {device}"
        spans = without_kernel(trace, device)
        causes |= set(spans.cause.tolist())
        found.append(_idle_row(f"{gpu} · no kernel", spans, labels, zero))
        here = trace.device == device
        tracks = sorted(
            {(p, s) for p, s in zip(trace.process[here].tolist(), trace.stream[here].tolist(), strict=True)}
        )
        several = len({process for process, _ in tracks}) > 1
        for process, stream in tracks:
            mine = np.flatnonzero(here & (trace.process == process) & (trace.stream == stream))
            name = f"{gpu} · " + (f"process {process} · " if several else "")
            name += "unknown stream" if stream == UNKNOWN else f"stream {stream}"
            whole = Row(
                name, trace.start_ns[mine] - zero, trace.end_ns[mine] - zero, of_name[trace.name[mine]],
                trace.bytes[mine], in_range[mine],
            )  # fmt: skip
            lanes, lost = _lanes(whole)
            found += lanes
            left_out += lost
    found += _wait_rows(trace, labels, zero)
    legend += tuple((cause.tone, f"no kernel: {cause.short}") for place, cause in enumerate(CAUSES) if place in causes)
    ranges, lost = _range_rows(trace, of_range, zero)
    found += ranges
    rows = tuple(row for row in found if len(row.starts))
    left_out += lost + sum(len(row.starts) for row in rows[MOST_ROWS:])
    return PackedTrace(_content(rows[:MOST_ROWS], labels), rows[:MOST_ROWS], legend, left_out)


def _tones(trace: Trace) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """A tone for each name, and the legend."""
    time = np.zeros(len(trace.names), np.int64)
    np.add.at(time, trace.name, trace.duration_ns)
    kind = np.zeros(len(trace.names), np.int64)
    kind[trace.name] = trace.kind
    tones = [{RowKind.COPY: COPY, RowKind.FILL: FILL}.get(KINDS[k], OTHER) for k in kind.tolist()]
    kernels = [place for place in np.argsort(-time, kind="stable").tolist() if tones[place] == OTHER]
    for tone, place in zip(TONES, kernels, strict=False):
        tones[place] = tone
    short = short_names(trace.names)
    legend = [(tone, short[trace.names[place]]) for tone, place in zip(TONES, kernels, strict=False)]
    present = set(tones)
    names = ((OTHER, "other kernels"), (COPY, "copies"), (FILL, "fills"))
    legend += [(tone, name) for tone, name in names if tone in present]
    return tones, tuple(legend + ([(RANGE, "NVTX ranges")] if trace.ranges else []))


def _idle_row(name: str, spans: Spans, labels: _Labels, zero: int) -> Row:
    """When no kernel ran on a GPU, by cause."""
    of_cause = np.array([labels.place(cause.text, cause.tone) for cause in CAUSES], np.int64)
    none = np.full(len(spans.cause), UNKNOWN, np.int64)
    return Row(name, spans.start_ns - zero, spans.end_ns - zero, of_cause[spans.cause], none, none)


def _wait_rows(trace: Trace, labels: _Labels, zero: int) -> list[Row]:
    """When threads of the host waited for a GPU."""
    threads: dict[tuple[int, int], list[HostWait]] = {}
    for wait in trace.waits:
        threads.setdefault((wait.process or 0, wait.thread or 0), []).append(wait)
    rows: list[Row] = []
    for (_, thread), waits in sorted(threads.items()):
        waits.sort(key=lambda wait: (wait.start_ns, wait.end_ns))
        starts, ends = (np.array(times, np.int64) - zero
                        for times in zip(*((wait.start_ns, wait.end_ns) for wait in waits), strict=True))  # fmt: skip
        names = np.array([labels.place(wait.name, "warn") for wait in waits], np.int64)
        none = np.full(len(waits), UNKNOWN, np.int64)
        rows += _lanes(Row(f"host · thread {thread or '?'} waits", starts, ends, names, none, none))[0]
    return rows


def _range_rows(trace: Trace, of_range: np.ndarray, zero: int) -> tuple[list[Row], int]:
    """Ranges by thread, or by process where they are started and ended, in lanes by how they nest."""
    tracks: dict[str, list[int]] = {}
    for place, item in enumerate(trace.ranges):
        if item.start_ns is not None and item.end_ns is not None:
            where = "started ranges" if item.style == "start_end" else f"thread {item.thread}"
            tracks.setdefault(f"NVTX · {where}", []).append(place)
    rows: list[Row] = []
    left_out = 0
    for name, places in sorted(tracks.items()):
        starts = np.array([trace.ranges[place].start_ns for place in places], np.int64) - zero
        ends = np.array([trace.ranges[place].end_ns for place in places], np.int64) - zero
        order = np.lexsort((-ends, starts))
        none = np.full(len(places), UNKNOWN, np.int64)
        lanes, lost = _lanes(Row(name, starts[order], ends[order], of_range[places][order], none, none))
        rows += lanes
        left_out += lost
    return rows, left_out


def _lanes(row: Row) -> tuple[list[Row], int]:
    """The row as rows in which nothing overlaps; how many events found no place."""
    if not len(row.starts) or (row.starts[1:] >= np.maximum.accumulate(row.ends)[:-1]).all():
        return [row], 0
    until: list[int] = []
    lane = np.full(len(row.starts), UNKNOWN, np.int64)
    for place, (start, end) in enumerate(zip(row.starts.tolist(), row.ends.tolist(), strict=True)):
        free = next((number for number, ended in enumerate(until) if ended <= start), len(until))
        if free == len(until):
            if free == MOST_LANES:
                continue
            until.append(end)
        until[free] = end
        lane[place] = free
    lanes = []
    for number in range(len(until)):
        mine = lane == number
        columns = (column[mine] for column in (row.starts, row.ends, row.labels, row.sizes, row.ranges))
        lanes.append(Row(f"{row.name} · {number + 1}" if number else row.name, *columns))
    return lanes, int((lane == UNKNOWN).sum())


def _content(rows: Sequence[Row], labels: _Labels) -> bytes:
    # Ranges may begin before anything ran: the page's clock starts with the first of all.
    first = min((int(row.starts[0]) for row in rows), default=0)
    head = json.dumps(
        {
            "labels": [[text, tone] for text, tone in labels.places],
            "rows": [[row.name, len(row.starts)] for row in rows],
            "first": first,
        },
        ensure_ascii=False, separators=(",", ":"),
    ).encode()  # fmt: skip
    parts = [len(head).to_bytes(4, "little"), head]
    for row in rows:
        gaps = row.starts - np.concatenate([[first], row.ends[:-1]])
        for column in (gaps, row.ends - row.starts, row.labels, row.sizes + 1, row.ranges + 1):
            parts.append(leb128(column))
    return b"".join(parts)


def leb128(values: np.ndarray) -> bytes:
    """Numbers from 0 to 2^63 - 1, 7 bits a byte, the lowest first; the highest bit says that more follow."""
    left = values.astype(np.uint64)
    lengths = np.ones(len(left), np.int64)
    for bits in range(7, 63, 7):
        lengths += left >= np.uint64(1 << bits)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(left) else lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for byte in range(int(lengths.max(initial=0))):
        mine = lengths > byte
        more = np.where(lengths[mine] > byte + 1, 128, 0)
        out[begins[mine] + byte] = (left[mine] >> np.uint64(7 * byte) & np.uint64(127)).astype(np.int64) | more
    return out.tobytes()
