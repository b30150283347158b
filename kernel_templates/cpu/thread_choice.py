"""How many threads run now: as many as the cores that other processes leave, corrected by the times measured.

With a thread on a core that another process holds, every barrier waits for that process's time slice: a token on two
threads then takes several times as long as on one. Counts of threads are compared by whole tokens, a few at a time; a
machine with its cores to itself is left alone.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TRIAL = 3  # tokens that another count is tried for
SOONEST, LATEST = 12, 384  # tokens between trials: doubled after one that changed nothing
BETTER = 0.95  # a count that takes less than this share of the current one's time replaces it
SLOWER = 1.4  # so many times the best time of the same count means that something is in the way
LOOK_S = 0.25  # between two looks at the other processes; the system counts in steps of 0.01 s
SHORTEST_S = 0.05  # window that an average is taken of
INSTANTS = 3  # looks at what runs now, of which the least counts: some threads run for microseconds only
APART_S = 0.001  # between them: this process's own threads spin for less than that after their work
RECENT_S = 1.0  # what others did before that says nothing of now: they may have ended
WEIGHT = 0.25  # of the newest token in a count's average


class CoreWatch:
    """Sees how much of the allowed cores other processes use (Linux: /proc/stat): on average since the last look if
    that was a moment ago, else by what runs in this instant."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
        self._last = self._sample()
        self._free = float(len(self._cores))

    def free(self, window_s: float = SHORTEST_S) -> float:
        """Cores that others left since the last call, fractions included. Sleeps until `window_s` have passed."""
        time.sleep(max(0.0, self._last.at + window_s - time.monotonic()))
        return self.look()

    def look(self) -> float:
        """As `free`, without waiting, but for moments if the window is long past and something runs now; the last
        answer while the window is shorter than SHORTEST_S."""
        if time.monotonic() - self._last.at < SHORTEST_S:
            return self._free
        now = self._sample()
        seconds, busy, own = now.at - self._last.at, now.busy - self._last.busy, now.own - self._last.own
        cores = float(len(self._cores))
        if seconds <= RECENT_S:
            self._free = min(cores, max(0.0, cores - (busy - own) / seconds))
        else:
            self._free = cores * (1.0 - _held_now())
        self._last = now
        return self._free

    def _sample(self) -> "_Sample":
        busy = sum(seconds for core, seconds in _read_stat().busy.items() if core in self._cores)
        return _Sample(time.monotonic(), busy, time.process_time())


@dataclass(frozen=True)
class _Sample:
    """Seconds: the clock, all work on the allowed cores so far, this process's own."""

    at: float
    busy: float
    own: float


@dataclass(frozen=True)
class _Stat:
    """What /proc/stat says: seconds of work by core, and how many threads run or wait for a core."""

    busy: Mapping[int, float]
    running: int

    @property
    def held(self) -> float:
        """The share of the processors that others' threads run on or wait for; the one that reads this is none."""
        return min(1.0, max(0, self.running - 1) / max(1, len(self.busy)))


def _held_now() -> float:
    """The least share of the processors that others hold in a few instants, none after one in which they hold none."""
    least = 1.0
    for number in range(INSTANTS):
        if number:
            time.sleep(APART_S)
        least = min(least, _read_stat().held)
        if not least:
            break
    return least


def _read_stat() -> _Stat:
    """Nothing on another system: nobody else is seen, and times alone decide."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        tick, busy, running = os.sysconf("SC_CLK_TCK"), {}, 0
        for line in lines:
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit():
                user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) for f in fields[:8])
                busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) / tick
            elif name == "procs_running":
                running = int(fields[0])
        return _Stat(busy, running)
    except (OSError, ValueError):
        return _Stat({}, 0)


@dataclass
class _Level:
    """What is known of one count of threads: seconds a token, on average and at best."""

    mean: float = 0.0
    best: float = float("inf")

    def add(self, seconds: float, weight: float) -> None:
        self.mean = seconds if not self.mean else self.mean + weight * (seconds - self.mean)
        self.best = min(self.best, self.mean)


class ThreadChoice:
    """Chooses the number of threads of each token, at most `most`: `next`, then `record` what it took."""

    def __init__(self, most: int, watch: CoreWatch | None = None):
        self.most, self.watch = most, watch or CoreWatch()
        self.counts = sorted({most, *(1 << i for i in range(most.bit_length()) if 1 << i <= most)})
        self._levels = {n: _Level() for n in self.counts}
        self._free = float(most) if most == 1 else self.watch.free()
        self.current = self._fitting()
        self._trial: list[float] = []
        self._tried: int | None = None
        self._period, self._since, self._up = SOONEST, 0, True
        self._looked = time.monotonic()
        self._free = float(most)

    def by_load(self) -> int:
        """The count for the cores that are free now, without a measurement, for passes over many tokens. It waits
        for two milliseconds at most, and not where the last look was a moment ago: such passes may follow each other
        within one."""
        if self.most > 1:
            self._free = self.watch.look()
        return self._fitting()

    def _fitting(self) -> int:
        return max([n for n in self.counts if n <= self._free + 0.4], default=1)

    def next(self) -> int:
        """Threads for the next token."""
        if self.most == 1:
            return 1
        if self._tried is None and self._due():
            self._tried, self._trial = self._neighbor(), []
        return self._tried or self.current

    def record(self, threads: int, seconds: float) -> None:
        """Seconds that a token took on `threads`."""
        if self._tried is None:
            self._levels[threads].add(seconds, WEIGHT)
            self._since += 1
            return
        self._trial.append(seconds)
        # The first token of a trial wakes sleeping threads. One that takes very long need not be repeated.
        given_up = sum(self._trial) > 4 * TRIAL * self._levels[self.current].mean
        if len(self._trial) > TRIAL or given_up:
            self._decide(self._trial[1:] or self._trial)

    def _decide(self, times: list[float]) -> None:
        assert self._tried is not None
        level, current = self._levels[self._tried], self._levels[self.current]
        # Earlier trials count too while others need the cores, where three tokens may just be lucky.
        level.add(sum(times) / len(times), 1.0 if self._free > self._tried - 0.5 else 0.6)
        if level.mean < BETTER * current.mean:
            self.current, self._period = self._tried, SOONEST
            level.mean = sum(times) / len(times)
        else:
            self._period = min(2 * self._period, LATEST)
        self._tried, self._since, self._up = None, 0, not self._up

    def _due(self) -> bool:
        """Whether to try another count now."""
        level = self._levels[self.current]
        if not level.mean:
            return False
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked, before = now, self._free
            self._free = self.watch.look()
            if abs(self._free - before) > 0.5:  # something began or ended
                self._period = SOONEST
        slower = level.mean > SLOWER * level.best
        if self.current == self.most and not slower and self._free > self.most - 0.5:
            return False
        return self._since >= (SOONEST if slower and self.current > 1 else self._period)

    def _neighbor(self) -> int:
        """The next count up or down, in turn; the only one at an end."""
        place = self.counts.index(self.current)
        up = place == 0 or (self._up and place + 1 < len(self.counts))
        return self.counts[place + 1 if up else place - 1]
