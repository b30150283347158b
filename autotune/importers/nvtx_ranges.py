"""Nests NVTX ranges, and finds the innermost one in which each kernel was launched, in one pass over time.

A thread's pushed ranges nest. A range that is started and ended belongs to its process: it may end in another thread,
and overlap others. The range around a call or around another range is the one that began last of those that its thread
has pushed and its process has started: so every kernel belongs to one range, and its time is counted once.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from tuning_db.profile_records import START_END, Range

PROCESS = -1 << 24  # the bits of a global thread id that are its process's
DEEPEST = 64  # open ranges that are looked at for one that holds another

Call = tuple[int, int]  # global thread id, time


class NvtxRange(NamedTuple):
    """thread: a global thread id; start, end: nanoseconds; style: PUSH_POP or START_END."""

    start: int
    end: int
    thread: int
    name: str
    style: str
    domain: str = ""


class _Nesting:
    """Ranges that were opened so far, in the order of time."""

    def __init__(self, ordered: Sequence[NvtxRange]) -> None:
        self._ordered = ordered
        # Places of those that may still be open, by the thread that pushed or the process that started them.
        self._pushed: dict[int, list[int]] = defaultdict(list)
        self._started: dict[int, list[int]] = defaultdict(list)
        self.ranges: list[Range] = []

    def until(self, time: int | None) -> None:
        """Open what begins no later than `time`, None for the rest."""
        for place in range(len(self.ranges), len(self._ordered)):
            one = self._ordered[place]
            if time is not None and one.start > time:
                break
            parent = self._around(one)
            self.ranges.append(
                Range(one.name, parent, one.domain, one.thread & ~PROCESS, one.start, one.end, one.style)
            )
            if one.style == START_END:
                self._started[one.thread & PROCESS].append(place)
            else:
                self._pushed[one.thread].append(place)

    def innermost(self, thread: int, time: int) -> int | None:
        """The place of the range that began last of those open at `time`, of this thread or its process."""
        open_ = [stack[-1] for stack in self._open(thread, time) if stack]
        return max(open_, default=None)

    def _around(self, inner: NvtxRange) -> int | None:
        """The same of those that do not end before `inner`."""
        found = [
            next((place for place in stack[: -DEEPEST - 1 : -1] if self._ordered[place].end >= inner.end), -1)
            for stack in self._open(inner.thread, inner.start)
            if stack
        ]
        best = max(found, default=-1)
        return best if best >= 0 else None

    def _open(self, thread: int, time: int) -> tuple[list[int], list[int]]:
        """What this thread has pushed and its process has started, the last one of each still open at `time`."""
        stacks = self._pushed[thread], self._started[thread & PROCESS]
        for stack in stacks:
            while stack and self._ordered[stack[-1]].end <= time:
                stack.pop()
        return stacks


def nested(found: Sequence[NvtxRange], calls: Sequence[Call | None]) -> tuple[tuple[Range, ...], list[int | None]]:
    """The ranges in the order of their starts, each with its parent, and for each call the place of its range."""
    nesting = _Nesting(sorted(found, key=lambda one: (one.start, -one.end)))
    owners: list[int | None] = [None] * len(calls)
    for time, number, thread in sorted((call[1], number, call[0]) for number, call in enumerate(calls) if call):
        nesting.until(time)
        owners[number] = nesting.innermost(thread, time)
    nesting.until(None)
    return tuple(nesting.ranges), owners
