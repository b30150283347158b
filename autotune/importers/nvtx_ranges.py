"""Nests NVTX ranges, and finds the innermost one in which each kernel was launched, in one pass over time.

A thread's pushed ranges nest. A range that is started and ended belongs to its process: it may end in another thread,
and overlap others. The range around a call or around another range is the one that began last of those that its thread
has pushed and its process has started: so every kernel belongs to one range, and its time is counted once.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np

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
        self._ordered, self._ends, self._next = ordered, [one.end for one in ordered], 0
        # Places of those that may still be open, by the thread that pushed or the process that started them.
        self._pushed: dict[int, list[int]] = {}
        self._started: dict[int, list[int]] = {}
        self.ranges: list[Range] = []

    def until(self, time: float) -> None:
        """Open what begins no later than `time`."""
        ordered, place = self._ordered, self._next
        while place < len(ordered) and ordered[place].start <= time:
            start, end, thread, name, style, domain = ordered[place]
            parent = self._innermost(thread, start, end)
            self.ranges.append(Range(name, parent, domain, thread & ~PROCESS, start, end, style))
            opened, owner = (self._started, thread & PROCESS) if style == START_END else (self._pushed, thread)
            opened.setdefault(owner, []).append(place)
            place += 1
        self._next = place

    def innermost(self, thread: int, time: int) -> int | None:
        """The place of the range that began last of those open at `time`, of this thread or its process."""
        return self._innermost(thread, time, time)

    def _innermost(self, thread: int, time: int, until: int) -> int | None:
        """The same of those that do not end before `until`."""
        best = self._last(self._pushed.get(thread), time, until)
        if self._started and (started := self._started.get(thread & PROCESS)):
            best = max(best, self._last(started, time, until))
        return best if best >= 0 else None

    def _last(self, stack: list[int] | None, time: int, until: int) -> int:
        """The last one of a stack, those that are over taken off, that does not end before `until`; -1 for none."""
        if not stack:
            return -1
        ends = self._ends
        while ends[stack[-1]] <= time:
            stack.pop()
            if not stack:
                return -1
        if ends[stack[-1]] >= until:
            return stack[-1]
        return next((place for place in stack[-2 : -DEEPEST - 1 : -1] if ends[place] >= until), -1)


def nested(found: Sequence[NvtxRange], calls: Sequence[Call | None]) -> tuple[tuple[Range, ...], list[int | None]]:
    """The ranges in the order of their starts, each with its parent, and for each call the place of its range."""
    owners: list[int | None] = [None] * len(calls)
    if not found:
        return (), owners
    # Of those that start together the longest is around the others.
    nesting = _Nesting(sorted(sorted(found, key=itemgetter(1), reverse=True), key=itemgetter(0)))
    numbers = [number for number, call in enumerate(calls) if call is not None]
    times = np.array([call[1] for call in calls if call is not None], np.int64)
    for at in np.argsort(times, kind="stable").tolist():
        number = numbers[at]
        call = calls[number]
        assert call is not None
        thread, time = call
        nesting.until(time)
        owners[number] = nesting.innermost(thread, time)
    nesting.until(float("inf"))
    return tuple(nesting.ranges), owners
