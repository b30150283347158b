"""Why no kernel ran on a GPU: the time between kernels by cause, as far as the trace shows it."""

from dataclasses import dataclass

import numpy as np

from autotune.profiling.trace_time import busy
from tuning_db.profile_records import RowKind
from tuning_db.trace_records import KINDS, Trace


@dataclass(frozen=True)
class Cause:
    """tone: of the page's palette."""

    text: str
    tone: str


COPYING, FILLING, UNTOLD = range(3)
CAUSES = (
    Cause("a copy ran, and no kernel", "s1"),
    Cause("a fill ran, and neither kernel nor copy", "s3"),
    Cause("idle, cause unknown", "s4"),
)
_KERNELS = tuple(KINDS.index(kind) for kind in (RowKind.KERNEL, RowKind.GRAPH))
_COPY, _FILL = KINDS.index(RowKind.COPY), KINDS.index(RowKind.FILL)


@dataclass(frozen=True, eq=False)
class Spans:
    """Intervals in order, apart. start_ns, end_ns: int64; cause: places in CAUSES."""

    start_ns: np.ndarray
    end_ns: np.ndarray
    cause: np.ndarray

    def total_ns(self, cause: int) -> int:
        mine = self.cause == cause
        return int((self.end_ns[mine] - self.start_ns[mine]).sum())


def without_kernel(trace: Trace, device: int) -> Spans:
    """The GPU's time from its first start to its last end without the time in which a kernel or a graph ran."""
    here = trace.device == device
    if not here.any():
        empty = np.empty(0, np.int64)
        return Spans(empty, empty, empty)
    kernels, copies, fills = (
        busy(trace, np.flatnonzero(here & np.isin(trace.kind, kinds))) for kinds in (_KERNELS, (_COPY,), (_FILL,))
    )
    cuts = [trace.start_ns[here].min(), trace.end_ns[here].max()]
    edges = np.unique(np.concatenate([cuts, *(spans.ravel() for spans in (kernels, copies, fills))]))
    starts, ends = edges[:-1], edges[1:]
    in_kernel, in_copy, in_fill = (_inside(starts, spans) for spans in (kernels, copies, fills))
    cause = np.where(in_copy, COPYING, np.where(in_fill, FILLING, UNTOLD))
    kept = ~in_kernel
    return _joined(starts[kept], ends[kept], cause[kept])


def _inside(places: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """bool: whether each place lies in one of these intervals, ends excluded."""
    if not len(spans):
        return np.zeros(len(places), bool)
    at = np.searchsorted(spans[:, 0], places, "right") - 1
    return (at >= 0) & (places < spans[np.maximum(at, 0), 1])


def _joined(starts: np.ndarray, ends: np.ndarray, cause: np.ndarray) -> Spans:
    """Neighbours that touch and have one cause are one."""
    if not len(starts):
        return Spans(starts, ends, cause)
    new = np.concatenate([[True], (starts[1:] != ends[:-1]) | (cause[1:] != cause[:-1])])
    last = np.concatenate([new[1:], [True]])
    return Spans(starts[new], ends[last], cause[new])
