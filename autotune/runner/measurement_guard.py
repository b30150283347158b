"""Repeats throttled measurements, rejects times below the bandwidth floor, and notes what the device did meanwhile.

Floor: a candidate whose copies together exceed the last cache about twice reads its bytes from memory in every call, so
it cannot be faster than these bytes at the rate at which memory was measured to be read. SLACK: a cache that replaces
lines at random keeps a quarter of what is read in turn from 1.9 times its size (h = exp(-1.9 (1 - h)), h = 0.23), and
the rate itself is uncertain by some percent. Where copies are too few or too small for that, nothing is claimed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from autotune.runner.device_state import Watch
from autotune.runner.timing import Probe
from tuning_db.records import Measurement

RETAKES = 2  # of a measurement under throttling
REST_S = 0.1  # before each: power is averaged over some milliseconds; waiting for heat would take minutes
RESIGNED = 4  # measurements in a row that stayed throttled: it is how this device is, and nothing is retaken
SLACK = 0.7  # of the floor
CACHES = 1.9  # times the last cache that copies have to exceed: they are made to be twice as large, with all padding
PROBES = 7


class ImpossibleTime(Exception):
    """A time that memory does not allow: a defect of the measurement, never a record."""


class ReadsMemory(Protocol):
    """A candidate. cold_bytes: of a call, those that come from memory each time; 0 when a cache may hold some."""

    @property
    def cold_bytes(self) -> int: ...


def cold_bytes(call_bytes: int, calls: int, cache_bytes: int) -> int:
    """`call_bytes` if a rotation over so many calls' own data exceeds the cache well enough, else 0."""
    return call_bytes if call_bytes * calls >= CACHES * cache_bytes else 0


class MeasurementGuard:
    """One for a device. probe: makes what reads memory, the first time it is needed."""

    def __init__(self, watch: Watch, probe: Callable[[], Probe], rest: Callable[[float], None] = time.sleep):
        self.watch, self._make, self._rest = watch, probe, rest
        self._probe: Probe | None = None
        self._bytes_s = 0.0  # the best rate that was measured
        self._stayed = 0

    def take(self, candidates: Sequence[ReadsMemory], measure: Callable[[], list[Measurement]]) -> list[Measurement]:
        """Measurements of the candidates, each with the device's state. Raises ImpossibleTime."""
        found = self._watched(measure)
        if self._too_fast(candidates, found):  # neither the rate nor the time is believed at once
            self.measure_rate()
            found = self._watched(measure)
            for candidate, measurement in self._too_fast(candidates, found):
                raise ImpossibleTime(
                    f"{measurement.median_ns / 1e3:.2f} µs for {candidate.cold_bytes / 1e6:.2f} MB from memory, which "
                    f"was read at {self._bytes_s / 1e9:.0f} GB/s: a defect of the measurement"
                )
        return found

    def probe(self) -> Probe:
        """What reads memory."""
        if self._probe is None:
            self._probe = self._make()
        return self._probe

    def _watched(self, measure: Callable[[], list[Measurement]]) -> list[Measurement]:
        for retakes in range(RETAKES + 1):
            before = self.watch.read()
            found = measure()
            state = self.watch.around(before, self.watch.read())
            if not state.get("throttled"):
                self._stayed = 0
                break
            if self._stayed >= RESIGNED:
                break
            if retakes < RETAKES:
                self._rest(REST_S)
        else:
            self._stayed += 1
        if retakes:
            state["retakes"] = retakes
        return [replace(measurement, state=state) for measurement in found]

    def _too_fast(
        self, candidates: Sequence[ReadsMemory], found: Sequence[Measurement]
    ) -> list[tuple[ReadsMemory, Measurement]]:
        pairs = [(c, m) for c, m in zip(candidates, found, strict=True) if c.cold_bytes]
        if pairs and not self._bytes_s:
            self.measure_rate()
        return [(c, m) for c, m in pairs if m.median_ns < SLACK * c.cold_bytes / self._bytes_s * 1e9]

    def measure_rate(self) -> None:
        """Find at what rate memory is read, the best of a few: other work only lowers the rate."""
        probe = self.probe()
        self._bytes_s = max(self._bytes_s, *(probe.nbytes / probe.seconds() for _ in range(PROBES)))
