"""Nests NVTX ranges, and finds the innermost one in which each kernel was launched, in one pass over time.

A thread's pushed ranges nest. A range that is started and ended belongs to its process: it may end in another thread,
and overlap others. The range around a call or around another range is the one that began last of those that its thread
has pushed and its process has started: so every kernel belongs to one range, and its time is counted once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tuning_db.profile_records import START_END, Range

PROCESS = -1 << 24  # the bits of a global thread id that are its process's
DEEPEST = 64  # open ranges that are looked at for one that holds another

Call = tuple[int, int]  # global thread id, time


@dataclass(frozen=True)
class NvtxRange:
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
        self._open: dict[tuple[str, int], list[int]] = defaultdict(list)  # places, by the thread or process they are of
        self.ranges: list[Range] = []

    def until(self, time: int | None) -> None:
        """Open what begins no later than `time`, None for the rest."""
        while len(self.ranges) < len(self._ordered):
            place = len(self.ranges)
            one = self._ordered[place]
            if time is not None and one.start > time:
                break
            parent = self.around(one.thread, one.start, one.end)
            self.ranges.append(
                Range(one.name, parent, one.domain, one.thread & ~PROCESS, one.start, one.end, one.style)
            )
            owner = ("process", one.thread & PROCESS) if one.style == START_END else ("thread", one.thread)
            self._open[owner].append(place)

    def around(self, thread: int, time: int, end: int) -> int | None:
        """The place of the range that began last of those that hold `time` to `end`, of this thread or its process."""
        best = None
        for owner in (("thread", thread), ("process", thread & PROCESS)):
            stack = self._open.get(owner)
            if not stack:
                continue
            while stack and self._ordered[stack[-1]].end <= time:
                stack.pop()
            holding = next((place for place in stack[: -DEEPEST - 1 : -1] if self._ordered[place].end >= end), None)
            if holding is not None and (best is None or holding > best):
                best = holding
        return best


def nested(found: Sequence[NvtxRange], calls: Sequence[Call | None]) -> tuple[tuple[Range, ...], list[int | None]]:
    """The ranges in the order of their starts, each with its parent, and for each call the place of its range."""
    nesting = _Nesting(sorted(found, key=lambda one: (one.start, -one.end)))
    owners: list[int | None] = [None] * len(calls)
    for time, number, thread in sorted((call[1], number, call[0]) for number, call in enumerate(calls) if call):
        nesting.until(time)
        owners[number] = nesting.around(thread, time, time + 1)
    nesting.until(None)
    return tuple(nesting.ranges), owners
