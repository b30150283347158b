"""Threads that run compiled steps together: in order, every time, asleep when idle, and gone when closed."""

import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from waiting import eventually

from kernel_templates.cpu.compile import compile_kernel
from kernel_templates.cpu.graph import Graph, step
from kernel_templates.cpu.matrix import first_of
from kernel_templates.cpu.simd import load_i64, store_i64
from kernel_templates.cpu.sync import atomic_load, barrier, relax
from kernel_templates.cpu.thread_pool import ThreadPool

HERE = Path(__file__).parent
LINE = 8  # int64 in a cache line


def relay(arguments, sync, thread, threads):
    """Each thread adds one to what it has, and counts an error for every other that does not have the same."""
    source, target, errors = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16) + 64 * thread
    mine = load_i64(source + 64 * thread)
    for t in range(threads):
        if load_i64(source + 64 * t) != mine:
            store_i64(errors, load_i64(errors) + 1)
    store_i64(target + 64 * thread, mine + 1)


def relay_inside(arguments, sync, thread, threads):
    """The same twice in one step, with the kernel's own barrier between: back to where it came from."""
    source, target, errors = load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16) + 64 * thread
    for _ in range(2):
        mine = load_i64(source + 64 * thread)
        for t in range(threads):
            if load_i64(source + 64 * t) != mine:
                store_i64(errors, load_i64(errors) + 1)
        store_i64(target + 64 * thread, mine + 1)
        barrier(sync, threads)
        source, target = target, source


class Relay:
    """A graph whose steps hand numbers from one array to the other and back."""

    def __init__(self, team: ThreadPool, steps: int = 10, kernel: Callable = relay):
        self.threads = team.threads
        self.one, self.other, self.errors = (np.zeros(LINE * team.threads, np.int64) for _ in range(3))
        compiled = compile_kernel(kernel, f"test {kernel.__name__}")
        there = step(compiled, (self.one, self.other, self.errors), "there")
        back = step(compiled, (self.other, self.one, self.errors), "back") if kernel is relay else there
        self.graph = Graph(team, [there, back] * (steps // 2))

    def check(self, expected: int) -> None:
        assert not self.errors.any(), "a step began before the one before it was done"
        assert self.one[::LINE].tolist() == [expected] * self.threads


def replays(threads: int) -> int:
    """Threads without a processor of their own are waited for at every barrier, for as long as others run."""
    return 20 if threads <= 2 else 3


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_step_sees_what_the_one_before_wrote(threads):
    with ThreadPool(threads) as team:
        run = Relay(team, steps=100)
        for _ in range(replays(threads)):
            run.graph.replay()
        run.check(100 * replays(threads))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_kernel_may_have_barriers_of_its_own(threads):
    with ThreadPool(threads) as team:
        run = Relay(team, steps=50, kernel=relay_inside)
        for _ in range(replays(threads)):
            run.graph.replay()
        run.check(100 * replays(threads))


def test_thousands_of_replays():
    with ThreadPool(2) as team:
        run = Relay(team, steps=2)
        for _ in range(3000):
            run.graph.replay()
        run.check(6000)


def test_more_threads_than_cores_make_progress():
    with ThreadPool(2 * (os.cpu_count() or 1) + 1) as team:
        run = Relay(team, steps=20)
        for _ in range(5):
            run.graph.replay()
        run.check(100)


def test_a_job_may_take_fewer_threads_than_the_team():
    """In any order, the helpers that are left out awake or asleep."""
    with ThreadPool(3) as team:
        run, alone = Relay(team, steps=2), Relay(ThreadPool(1), steps=2)
        alone.graph = Graph(team, alone.graph.steps)
        for i in range(200):
            alone.graph.replay(threads=1)
            run.graph.replay()
            if i % 50 == 0:
                time.sleep(0.05)
        run.check(400)
        alone.check(400)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the states of threads from /proc")
def test_a_thread_that_waits_at_a_barrier_sleeps():
    """It may hold the core that the one it waits for needs."""
    started, go = np.zeros(LINE, np.int64), np.zeros(LINE, np.int64)

    def hold(arguments, sync, thread, threads):
        if thread == 0:
            store_i64(load_i64(arguments), 1)
            while atomic_load(load_i64(arguments + 8)) == 0:
                relax()

    with ThreadPool(2) as team:
        graph = Graph(team, [step(compile_kernel(hold, "test hold"), (started, go))])
        caller = threading.Thread(target=graph.replay)
        caller.start()
        stat = Path(f"/proc/self/task/{team._helpers[0].native_id}/stat")
        asleep = eventually(lambda: started[0] == 1 and stat.read_text().rpartition(")")[2].split()[0] == "S")
        go[0] = 1
        caller.join()
        assert asleep


def test_a_team_wakes_from_its_sleep():
    with ThreadPool(3) as team:
        run = Relay(team)
        for replays in range(1, 6):
            time.sleep(0.06)
            run.graph.replay()
            run.check(10 * replays)


def test_pauses_of_every_length_lose_no_wake_up():
    """Around the moment when helpers fall asleep, a job must reach them either way."""
    with ThreadPool(2) as team:
        run = Relay(team, steps=2)
        for i in range(100):
            until = time.perf_counter() + i * 6e-5  # 0 to 6 ms
            while time.perf_counter() < until:
                pass
            run.graph.replay()
        run.check(200)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the states of threads from /proc")
def test_an_idle_team_uses_no_processor():
    """Its helpers sleep, which a spinning thread never does, not even while it waits for a processor."""

    def states() -> set[str]:
        stats = [Path(f"/proc/self/task/{helper.native_id}/stat").read_text() for helper in team._helpers]
        return {stat.rpartition(")")[2].split()[0] for stat in stats}

    with ThreadPool(3) as team:
        run = Relay(team)
        for _ in range(2):
            run.graph.replay()
            assert eventually(lambda: states() == {"S"})


def test_two_teams_at_once():
    with ThreadPool(2) as a, ThreadPool(2) as b:
        runs = [Relay(a), Relay(b)]

        def replay(run: Relay) -> None:
            for _ in range(50):
                run.graph.replay()

        callers = [threading.Thread(target=replay, args=(run,)) for run in runs]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for run in runs:
            run.check(500)


def test_two_graphs_take_turns_on_one_team():
    with ThreadPool(2) as team:
        long, short, nothing = Relay(team, steps=10), Relay(team, steps=2), Graph(team, [])
        for _ in range(200):
            long.graph.replay()
            nothing.replay()
            short.graph.replay()
        long.check(2000)
        short.check(400)


def test_closing_ends_the_threads_and_may_be_repeated():
    before = threading.active_count()
    team = ThreadPool(3)
    run = Relay(team)
    run.graph.replay()
    assert threading.active_count() == before + 2
    team.close()
    assert threading.active_count() == before
    team.close()
    with pytest.raises(RuntimeError, match="the team is closed"):
        run.graph.replay()
    run.check(10)


def test_a_team_may_close_before_its_first_job():
    before = threading.active_count()
    for _ in range(20):
        team = ThreadPool(3)
        team.close()
        assert threading.active_count() == before and not any(helper.is_alive() for helper in team._helpers)


def test_a_dropped_team_ends_its_threads():
    before = threading.active_count()
    team = ThreadPool(3)
    del team
    gc.collect()
    assert eventually(lambda: threading.active_count() == before)


def test_a_team_has_threads():
    with pytest.raises(ValueError, match="at least one thread, not 0"):
        ThreadPool(0)


def test_timed_replays_account_for_each_step():
    with ThreadPool(2) as team:
        run = Relay(team, steps=6)
        start = time.perf_counter_ns()
        took = run.graph.replay_timed()
        whole = time.perf_counter_ns() - start
        assert took.shape == (6,) and took.dtype == np.float64
        assert np.all(took >= 0) and 0 < took.sum() <= whole
        run.check(6)
        assert Graph(team, []).replay_timed().shape == (0,)


def test_a_step_keeps_its_arrays_alive():
    kernel = compile_kernel(relay, "test relay")
    arrays = [np.zeros(LINE, np.int64) for _ in range(3)]
    bound = step(kernel, (*arrays, 5))
    assert bound.arguments.tolist() == [*(a.ctypes.data for a in arrays), 5]
    assert all(kept is a for kept, a in zip(bound.keep, arrays, strict=True))
    with pytest.raises(ValueError, match="must be contiguous"):
        step(kernel, (np.zeros((4, 4))[:, 1],))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 100])
def test_shares_cover_everything_once_and_evenly(count, threads):
    edges = [first_of(count, t, threads) for t in range(threads + 1)]
    sizes = np.diff(edges)
    assert (edges[0], edges[-1]) == (0, count)
    assert sizes.min() >= 0 and sizes.max() - sizes.min() <= 1


INTERRUPTED = """
import os, signal, threading, sys
sys.path[:0] = sys.argv[1:]
from test_thread_pool import Relay, ThreadPool
team = ThreadPool(2)
run = Relay(team, steps=1000)
replays = 0
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        run.graph.replay()
except KeyboardInterrupt:
    pass
done = int(run.one[0])
run.graph.replay()
run.check(done + 1000)
assert done % 1000 == 0
team.close()
print("went on")
"""


def test_an_interrupt_leaves_the_team_whole():
    command = [sys.executable, "-c", INTERRUPTED, str(HERE), str(HERE.parent)]
    # Where the tests run in the background, SIGINT comes ignored; a terminal's child has it.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=default)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
