"""A team of threads that runs compiled steps together: started once, woken per graph, joined by barriers.

Thread 0 is the caller of `ThreadPool.run`. The others spin for new work after the last, which covers the gap between
two tokens, then sleep in the kernel, so that an idle engine uses no processor. A job may run on fewer threads than the
team has; the others do not notice it.
"""

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

from kernel_templates.cpu.compile import compile_kernel
from kernel_templates.cpu.simd import load_i64, store_i64
from kernel_templates.cpu.sync import LINE, advance, atomic_load, await_change, barrier

LINGER_SPINS, LINGER_YIELDS = 256, 32  # together some 0.3 ms of x86 `pause`

# Offsets of the shared state in bytes, each on its own cache line. The barrier takes the first two, and each worker has
# a line with the number of jobs that it was given and a count of sleepers (`sync.await_change`).
JOB, WORKERS = 2 * LINE, 3 * LINE
CLOCK = LINE - 16  # of a job's line: scratch of `_now`
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
CLOCK_MONOTONIC = 1


@intrinsic
def _call(typingctx, function, arguments, sync, thread, threads):
    """Call the kernel at address `function`."""
    i64 = ir.IntType(64)

    def codegen(context, builder, sig, args):
        fn_type = ir.FunctionType(ir.VoidType(), [i64] * 4)
        builder.call(builder.inttoptr(args[0], fn_type.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@njit(inline="always")
def _now(at):
    """Nanoseconds on the monotonic clock; `at`: address of 16 bytes of scratch."""
    _clock_gettime(CLOCK_MONOTONIC, at)
    return load_i64(at) * 1_000_000_000 + load_i64(at + 8)


@njit(inline="always")
def _steps(state, thread, threads):
    """This thread's share of the current job: every step in order, a barrier after each. Thread 0 keeps the time."""
    functions = load_i64(state + JOB)
    arguments = load_i64(state + JOB + 8)
    count = load_i64(state + JOB + 16)
    times = load_i64(state + JOB + 24)
    clock = state + JOB + CLOCK
    if times != 0 and thread == 0:
        store_i64(times, _now(clock))
    for i in range(count):
        _call(load_i64(functions + 8 * i), load_i64(arguments + 8 * i), state, thread, threads)
        barrier(state, threads)
        if times != 0 and thread == 0:
            store_i64(times + 8 * (i + 1), _now(clock))


def _run(state, threads, functions, arguments, count, times):
    """Give a job to the first `threads`, do thread 0's share. One native call, so that no signal can fall in between
    and leave the helpers waiting at a barrier that nobody else reaches."""
    store_i64(state + JOB, functions)
    store_i64(state + JOB + 8, arguments)
    store_i64(state + JOB + 16, count)
    store_i64(state + JOB + 24, times)
    store_i64(state + JOB + 32, threads)
    for t in range(1, threads):
        advance(state + WORKERS + LINE * t)
    _steps(state, 0, threads)


def _close(state, threads):
    """A job without steps on no thread tells a helper to end."""
    store_i64(state + JOB + 32, 0)
    for t in range(1, threads):
        advance(state + WORKERS + LINE * t)


def _serve(state, thread):
    """A helper's life: run the jobs that it is given, sleep when none comes, return when the team closes."""
    mailbox = state + WORKERS + LINE * thread
    seen = 0
    while True:
        await_change(mailbox, seen, LINGER_SPINS, LINGER_YIELDS)
        seen = atomic_load(mailbox)
        threads = load_i64(state + JOB + 32)
        if threads == 0:
            return
        _steps(state, thread, threads)


@functools.cache
def _native(function: Callable) -> Callable[..., None]:
    """Compiled like a kernel, so that a change of the barrier reaches it too. The call lets go of Python's lock."""
    words = function.__code__.co_argcount
    kernel = compile_kernel(function, f"team {function.__name__}", words)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * words)(kernel.address)


def _help(memory: np.ndarray, state: int, thread: int) -> None:
    """A helper thread; it holds the memory that `state` lies in for as long as it runs."""
    _native(_serve)(state, thread)


def _end(memory: np.ndarray, state: int, threads: int) -> None:
    _native(_close)(state, threads)


class ThreadPool:
    """`threads` workers over one block of shared state. Not for use from two threads at once; close when done."""

    def __init__(self, threads: int):
        if threads < 1:
            raise ValueError(f"a team needs at least one thread, not {threads}")
        self.threads = threads
        self._memory = np.zeros(WORKERS + LINE * (threads + 1), np.int8)
        start = self._memory.ctypes.data
        self._state = start + (-start) % LINE
        for function in (_run, _serve, _close):  # compiled here, not by whichever thread comes first
            _native(function)
        shared = (self._memory, self._state)
        self._helpers = [
            threading.Thread(target=_help, args=(*shared, t), name=f"autotune-{t}", daemon=True)
            for t in range(1, threads)
        ]
        for helper in self._helpers:
            helper.start()
        self._end = weakref.finalize(self, _end, *shared, threads)  # a team dropped without a close ends too

    def run(self, functions: int, arguments: int, count: int, times: int = 0, threads: int | None = None) -> None:
        """Run `count` steps: addresses of int64 arrays of kernel addresses and of argument blocks.

        times: 0, or the address of count + 1 int64 that receive the monotonic clock (ns) around each step;
        threads: how many of the team's share the work, all if None.
        """
        if not self._end.alive:
            raise RuntimeError("the team is closed")
        if count == 0:  # no barrier would keep the next job from overwriting this one while a helper reads it
            return
        _native(_run)(self._state, threads or self.threads, functions, arguments, count, times)

    def close(self) -> None:
        """Let the helper threads end. Idempotent."""
        self._end()
        for helper in self._helpers:
            helper.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
