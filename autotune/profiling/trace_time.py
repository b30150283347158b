"""How a GPU's time divides into kernels, copies, fills and idle time, exact to the nanosecond."""

from dataclasses import dataclass

import numpy as np

from tuning_db.profile_records import RowKind
from tuning_db.trace_records import KINDS, Trace

# What a moment counts as when several things run in it: the first of these that does.
_CLASSES = ((RowKind.KERNEL, RowKind.GRAPH), (RowKind.COPY,), (RowKind.FILL,))


@dataclass(frozen=True)
class TimeShares:
    """Nanoseconds of the span from the first start to the last end, which the other four add up to: while a kernel or
    a graph ran; while a copy ran, and neither; while a fill ran, and none of these; while nothing did."""

    span_ns: int
    kernels_ns: int
    copies_ns: int
    fills_ns: int
    idle_ns: int

    @property
    def idle(self) -> float:
        """A share of 1; 0 for a trace without rows."""
        return self.idle_ns / self.span_ns if self.span_ns else 0.0


def shares(trace: Trace, device: int | None = None) -> TimeShares:
    """device: of this GPU alone; None for all together, where idle means that none of them did anything."""
    chosen = np.ones(len(trace), bool) if device is None else trace.device == device
    if not chosen.any():
        return TimeShares(0, 0, 0, 0, 0)
    groups = [np.isin(trace.kind, [KINDS.index(kind) for kind in kinds]) & chosen for kinds in _CLASSES]
    # At each edge of any interval: how many of each class run from there to the next edge.
    edges = np.unique(np.concatenate([trace.start_ns[chosen], trace.end_ns[chosen]]))
    lengths = np.diff(edges)
    left, spent = np.ones(len(lengths), bool), []
    for group in groups:
        running = left & _covered(edges, trace.start_ns[group], trace.end_ns[group])
        spent.append(int(lengths[running].sum()))
        left &= ~running
    kernels, copies, fills = spent
    return TimeShares(int(edges[-1] - edges[0]), kernels, copies, fills, int(lengths[left].sum()))


def busy(trace: Trace, rows: np.ndarray) -> np.ndarray:
    """The union of these rows' intervals (bool or places), int64 [intervals, 2]: starts and ends in order, apart."""
    starts, ends = trace.start_ns[rows], trace.end_ns[rows]
    if not len(starts):
        return np.empty((0, 2), np.int64)
    order = np.argsort(starts, kind="stable")
    starts, latest = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > latest[:-1]])
    return np.stack([starts[first], latest[np.concatenate([first[1:], [True]])]], axis=1)


def _covered(edges: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool [edges - 1]: whether an interval runs from each edge to the next."""
    change = np.zeros(len(edges), np.int64)
    np.add.at(change, np.searchsorted(edges, starts), 1)
    np.add.at(change, np.searchsorted(edges, ends), -1)
    return np.cumsum(change)[:-1] > 0
