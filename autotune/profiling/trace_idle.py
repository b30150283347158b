"""Why no kernel ran on a GPU: the time between kernels by cause, as far as the trace shows it.

While nothing ran, what ran next tells: before the host had called it, the host was late, or waited for the GPU itself;
afterwards it was on its way, or, if it had been called before the GPU became idle, something held it back that no trace
shows (other work it depends on, or the GPU's own time between two kernels).
"""

from dataclasses import dataclass

import numpy as np

from autotune.profiling.trace_time import busy
from tuning_db.profile_records import RowKind
from tuning_db.trace_records import KINDS, NEVER, UNKNOWN, Trace


@dataclass(frozen=True)
class Cause:
    """text: for people; short: for a legend; tone: of the page's palette."""

    text: str
    short: str
    tone: str


COPYING, FILLING, HOST, WAITING, LAUNCHING, HELD, UNTOLD = range(7)
CAUSES = (
    Cause("a copy ran, and no kernel", "copying", "s1"),
    Cause("a fill ran, and neither kernel nor copy", "filling", "s3"),
    Cause("host late: the next launch was not called yet", "host late", "bad"),
    Cause(
        "the host waited for the GPU (synchronization) and called the next launch afterwards", "host waiting", "warn"
    ),
    Cause("called, and on its way to the GPU", "launching", "s4"),
    Cause("called before the GPU was idle, and held back by something the trace does not show", "held back", "other"),
    Cause("unknown: the trace has no call for what ran next", "unknown", "range"),
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
    here = np.flatnonzero(trace.device == device)
    if not len(here):
        empty = np.empty(0, np.int64)
        return Spans(empty, empty, empty)
    kernels, copies, fills = (
        busy(trace, here[np.isin(trace.kind[here], kinds)]) for kinds in (_KERNELS, (_COPY,), (_FILL,))
    )
    first, last = trace.start_ns[here].min(), trace.end_ns[here].max()
    called = trace.called_ns[here]
    waits = {process: _waits(trace, process) for process in set(trace.process[here].tolist())}
    cuts = [spans.ravel() for spans in (kernels, copies, fills, *waits.values())]
    edges = np.unique(np.concatenate([[first, last], called, *cuts]))
    edges = edges[(edges >= first) & (edges <= last)]
    starts, ends = edges[:-1], edges[1:]
    kept = ~_inside(starts, kernels)
    starts, ends = starts[kept], ends[kept]
    cause = np.where(_inside(starts, copies), COPYING, np.where(_inside(starts, fills), FILLING, UNTOLD))
    idle = np.flatnonzero(cause == UNTOLD)
    cause[idle] = _why_idle(trace, here, starts[idle], ends[idle], waits)
    return _joined(starts, ends, cause)


def _why_idle(
    trace: Trace, here: np.ndarray, starts: np.ndarray, ends: np.ndarray, waits: dict[int, np.ndarray]
) -> np.ndarray:
    """Causes of pieces of time in which nothing ran: no call, and no wait, begins or ends inside one."""
    following = here[np.searchsorted(trace.start_ns[here], ends)]
    called = trace.called_ns[following]
    running = busy(trace, here)
    idle_since = running[np.searchsorted(running[:, 1], starts, "right") - 1, 1]
    cause = np.where(called <= idle_since, HELD, np.where(starts < called, HOST, LAUNCHING))
    for process, spans in waits.items():
        mine = (trace.process[following] == process) & (cause == HOST)
        cause[mine & _inside(starts, spans)] = WAITING
    cause[called == NEVER] = UNTOLD
    return cause


def _waits(trace: Trace, process: int) -> np.ndarray:
    """When a process waited for a GPU, as intervals in order, apart; also waits of an unknown process."""
    mine = sorted(
        (wait.start_ns, wait.end_ns) for wait in trace.waits if process == UNKNOWN or wait.process in (None, process)
    )
    joined: list[list[int]] = []
    for start, end in mine:
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        elif end > start:
            joined.append([start, end])
    return np.array(joined, np.int64).reshape(-1, 2)


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
