"""The number of threads follows the cores that are free and the times of tokens, and changes no result."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from kernel_templates.cpu import openmp, thread_choice
from kernel_templates.cpu.thread_choice import CoreWatch, ThreadChoice, _Sample, _Stat


class Seen(CoreWatch):
    """Answers with `cores` instead of looking."""

    def __init__(self, cores: float):
        self.cores = cores

    def free(self, window_s: float = 0.05) -> float:
        return self.cores

    def look(self) -> float:
        return self.cores


def decode(choice: ThreadChoice, seconds: dict[int, float], tokens: int, noise: random.Random) -> float:
    """Mean time of `tokens` whose time depends on the count of threads, with a tenth of noise."""
    total = 0.0
    for _ in range(tokens):
        threads = choice.next()
        took = seconds[threads] * noise.uniform(0.95, 1.05)
        choice.record(threads, took)
        total += took
    return total / tokens


ALONE, BUSY = {1: 0.010, 2: 0.006}, {1: 0.010, 2: 0.060}


@pytest.mark.parametrize(
    ("free", "most", "threads"), [(2, 2, 2), (1.7, 2, 2), (1.3, 2, 1), (0.1, 2, 1), (12, 12, 12), (9, 12, 8), (3, 1, 1)]
)
def test_threads_begin_with_the_free_cores(free, most, threads):
    assert ThreadChoice(most, Seen(free)).next() == threads


def test_a_machine_with_its_cores_to_itself_tries_nothing():
    choice = ThreadChoice(2, Seen(2.0))
    assert {(n := choice.next(), choice.record(n, ALONE[n]))[0] for _ in range(2000)} == {2}


@pytest.mark.parametrize("seed", range(5))
def test_threads_change_when_one_falls_behind_and_come_back(seed):
    """Even if nothing but the times says so: another process begins, then ends."""
    noise, watch = random.Random(seed), Seen(2.0)
    choice = ThreadChoice(2, watch)
    decode(choice, ALONE, 50, noise)
    decode(choice, BUSY, 30, noise)
    assert choice.current == 1
    assert decode(choice, BUSY, 500, noise) < 1.12 * BUSY[1]
    decode(choice, ALONE, thread_choice.LATEST + 50, noise)
    assert choice.current == 2
    assert decode(choice, ALONE, 100, noise) < 1.1 * ALONE[2]


def test_a_wrong_view_of_the_free_cores_is_corrected():
    choice = ThreadChoice(2, Seen(0.5))
    assert choice.current == 1
    decode(choice, ALONE, 40, random.Random(0))
    assert choice.current == 2


def test_passes_that_follow_each_other_do_not_wait_for_a_look(monkeypatch):
    """Only the beginning does: a step of several texts, or a short prompt, takes less than a window."""
    choice = ThreadChoice(2)
    monkeypatch.setattr(thread_choice.time, "sleep", lambda seconds: pytest.fail(f"slept for {seconds} s"))
    assert {choice.by_load() for _ in range(50)} <= {1, 2}
    assert ThreadChoice(1).by_load() == 1
    watch = Seen(2.0)
    choice = ThreadChoice(2, watch)
    watch.cores = 1.0
    assert choice.by_load() == 1


def looks(monkeypatch, cores: set[int], *samples: _Sample) -> list[float]:
    """What a watch of these cores says after each sample but the first."""
    watch = object.__new__(CoreWatch)
    rest = iter(replace(sample, at=sample.at - 1e6) for sample in samples)  # before now, whenever the machine began
    monkeypatch.setattr(watch, "_sample", lambda: next(rest))
    watch._cores, watch._last = cores, watch._sample()
    return [watch.look() for _ in samples[1:]]


def test_this_process_is_no_other(monkeypatch):
    """What this process computes itself is not load: 2 cores, one of them ours."""
    samples = [_Sample(100.0, 50.0, 10.0), _Sample(101.0, 51.0, 11.0), _Sample(102.0, 53.0, 12.0)]
    assert looks(monkeypatch, {0, 1}, *samples) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("running", "processors", "free"),
    [([1, 1, 1], 2, 2.0), ([2, 2, 4], 2, 1.0), ([6, 1, 6], 2, 2.0), ([9, 9, 9], 2, 0.0), ([17, 17, 17], 64, 1.5)],
)
def test_what_ended_before_this_moment_is_no_load(running, processors, free, monkeypatch):
    """Both cores were busy for most of a minute; what counts is what runs now, and from then on the average again."""
    stats = iter([_Stat(dict.fromkeys(range(processors), 0.0), n) for n in running])
    monkeypatch.setattr(thread_choice, "_read_stat", lambda: next(stats))
    samples = [_Sample(0.0, 0.0, 0.0), _Sample(60.0, 110.0, 0.0), _Sample(60.2, 110.2, 0.0)]
    assert looks(monkeypatch, {0, 1}, *samples) == [free, pytest.approx(1.0)]


def test_instants_lie_apart_and_end_with_the_first_that_shows_nothing(monkeypatch):
    """This process's own thread spins for some hundred microseconds behind its work, and is no other's."""
    waits: list[float] = []
    stats = iter([_Stat({0: 0.0, 1: 0.0}, 2), _Stat({0: 0.0, 1: 0.0}, 1)])
    monkeypatch.setattr(thread_choice, "_read_stat", lambda: next(stats))
    monkeypatch.setattr(thread_choice.time, "sleep", waits.append)
    assert looks(monkeypatch, {0, 1}, _Sample(0.0, 0.0, 0.0), _Sample(60.0, 110.0, 0.0)) == [2.0]
    assert waits == [thread_choice.APART_S]


def test_a_process_that_runs_is_seen_at_once():
    with subprocess.Popen([sys.executable, "-c", "while 1: pass"]) as process:
        try:
            assert any(thread_choice._read_stat().running > 1 for _ in range(1000))
        finally:
            process.kill()


def test_where_the_system_does_not_say_every_core_is_free(monkeypatch):
    monkeypatch.setattr(thread_choice, "Path", lambda path: (_ for _ in ()).throw(OSError()))
    watch = CoreWatch()
    watch._last = replace(watch._last, at=watch._last.at - 60.0)
    assert watch.look() == len(watch._cores)


def test_openmp_threads_wait_briefly_unless_told():
    told: dict[str, str] = {"OMP_WAIT_POLICY": "active"}
    openmp.wait_briefly(told)
    assert told == {"OMP_WAIT_POLICY": "active"}
    untold = {"GOMP_SPINCOUNT": "5"}
    openmp.wait_briefly(untold)
    assert untold == {**openmp.WAITING, "GOMP_SPINCOUNT": "5"}
