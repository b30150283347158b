"""Finds launches that write to memory what the next one reads back, by the sizes of what they move.

Sizes alone say little: variants of one kernel, measured one after another, move the same amounts as kernels that pass
data on. So a pair is not taken for a round trip where its names say that both do the same work, nor where a third
launch beside it moves the same amounts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.profiling import launch_metrics
from autotune.profiling.launch_metrics import LaunchMetrics

ALIKE = 0.15  # two amounts of data that differ by less may be the same data
LARGE = 1 << 20  # bytes: what is smaller stays in a cache anyway
BUSY = 0.6  # of DRAM's bandwidth: what both kernels must use for the round trip to cost time
_WORD = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{2,}(?![a-z])")
_ANY_KERNEL = {"void", "kernel", "kernels", "global", "device", "cuda", "gpu", "fwd", "forward", "float", "half"}


@dataclass(frozen=True)
class RoundTrip:
    """first, second: names of the kernels; written, read: bytes; gain: the share of their time that one kernel
    for both would save."""

    first: str
    second: str
    written: float
    read: float
    gain: float


def round_trips(launches: Sequence[LaunchMetrics]) -> dict[int, RoundTrip]:
    """The round trip that a launch takes part in, by its place; with the launch before it if with both."""
    found: dict[int, RoundTrip] = {}
    for place in range(len(launches) - 1):
        trip = _between(launches[place], launches[place + 1])
        beside = [*launches[max(place - 1, 0) : place], *launches[place + 2 : place + 3]]
        if trip is not None and not any(_same_amounts(other, launches[place]) for other in beside):
            found.setdefault(place, trip)
            found[place + 1] = trip
    return found


def _between(first: LaunchMetrics, second: LaunchMetrics) -> RoundTrip | None:
    amounts = (first.read, first.written, second.read, second.written)
    shares = [share for one in (first, second) if (share := one.share(launch_metrics.DRAM)) is not None]
    if None in amounts or len(shares) < 2 or min(shares) < BUSY:
        return None
    everything = sum(amount for amount in amounts if amount is not None)
    written, read = first.written or 0.0, second.read or 0.0
    if min(written, read) < LARGE or not _alike(written, read) or _variants(first.launch.kernel, second.launch.kernel):
        return None
    gain = (written + read) / everything * min(shares)
    return RoundTrip(first.launch.kernel, second.launch.kernel, written, read, gain)


def _variants(one: str, other: str) -> bool:
    """Whether two names are of one kernel's variants: they share a word, or all but their numbers."""
    names = [name.partition("(")[0].partition("<")[0].split("::")[-1] for name in (one, other)]
    words = [{word.lower() for word in _WORD.findall(name)} - _ANY_KERNEL for name in names]
    bare = [re.sub(r"\d+", "", name) for name in names]
    return names[0] == names[1] or (bool(bare[0]) and bare[0] == bare[1]) or bool(words[0] & words[1])


def _same_amounts(one: LaunchMetrics, other: LaunchMetrics) -> bool:
    pairs = ((one.read, other.read), (one.written, other.written))
    return all(a is not None and b is not None and _alike(a, b) for a, b in pairs)


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= ALIKE * max(one, other)
