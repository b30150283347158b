"""A team of threads that runs compiled steps together: started once, woken per graph, joined by spinning barriers.

Thread 0 is the caller of `ThreadPool.run`. The others spin for new work for LINGER_SPINS after the last, which covers
the gap between two tokens, then sleep on a semaphore, so that an idle engine uses no processor.
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
from kernel_templates.cpu.sync import (
    LINE,
    atomic_add,
    atomic_exchange,
    atomic_load,
    atomic_store,
    barrier,
    compare_exchange,
    relax,
)

LINGER_SPINS = 60_000  # about 2 ms of x86 `pause`

# Offsets of the shared state in bytes, each on its own cache line. The barrier takes the first two, and each worker has
# a line with its flag and a POSIX semaphore.
EPOCH, JOB, WORKERS = 2 * LINE, 3 * LINE, 4 * LINE
SEMAPHORE = 16
AWAKE, ASLEEP, CLOSED = 0, 1, -1

_sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))
_sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))
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
    clock = state + JOB + 32
    if times != 0 and thread == 0:
        store_i64(times, _now(clock))
    for i in range(count):
        _call(load_i64(functions + 8 * i), load_i64(arguments + 8 * i), state, thread, threads)
        barrier(state, threads)
        if times != 0 and thread == 0:
            store_i64(times + 8 * (i + 1), _now(clock))


def _run(state, threads, functions, arguments, count, times):
    """Publish a job, wake whoever sleeps, do thread 0's share. One native call, so that no signal can fall in between
    and leave the helpers waiting at a barrier that nobody else reaches."""
    store_i64(state + JOB, functions)
    store_i64(state + JOB + 8, arguments)
    store_i64(state + JOB + 16, count)
    store_i64(state + JOB + 24, times)
    atomic_add(state + EPOCH, 1)
    for t in range(1, threads):
        if atomic_exchange(state + WORKERS + LINE * t, AWAKE) == ASLEEP:
            _sem_post(state + WORKERS + LINE * t + SEMAPHORE)
    _steps(state, 0, threads)


def _close(state, threads):
    atomic_store(state + EPOCH, CLOSED)
    for t in range(1, threads):
        if atomic_exchange(state + WORKERS + LINE * t, AWAKE) == ASLEEP:
            _sem_post(state + WORKERS + LINE * t + SEMAPHORE)


def _serve(state, thread, threads):
    """A helper's life: run jobs as they come, sleep when none came for LINGER_SPINS, return when the team closes."""
    seen = 0
    spins = 0
    flag = state + WORKERS + LINE * thread
    while True:
        epoch = atomic_load(state + EPOCH)
        if epoch == CLOSED:
            return
        if epoch != seen:
            seen = epoch
            spins = 0
            _steps(state, thread, threads)
            continue
        relax()
        spins += 1
        if spins > LINGER_SPINS:
            spins = 0
            atomic_store(flag, ASLEEP)
            # A job published since the check above either saw the flag, and will post, or must be taken now.
            if atomic_load(state + EPOCH) == seen or not compare_exchange(flag, ASLEEP, AWAKE):
                while _sem_wait(flag + SEMAPHORE) != 0:  # interrupted by a signal
                    relax()


@functools.cache
def _native(function: Callable) -> Callable[..., None]:
    """Compiled like a kernel, so that a change of the barrier reaches it too. The call lets go of Python's lock."""
    words = function.__code__.co_argcount
    kernel = compile_kernel(function, f"team {function.__name__}", words)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * words)(kernel.address)


def _help(memory: np.ndarray, state: int, thread: int, threads: int) -> None:
    """A helper thread; it holds the memory that `state` lies in for as long as it runs."""
    _native(_serve)(state, thread, threads)


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
        libc = ctypes.CDLL(None, use_errno=True)
        for t in range(1, threads):
            libc.sem_init(ctypes.c_void_p(self._state + WORKERS + LINE * t + SEMAPHORE), 0, 0)
        shared = (self._memory, self._state)
        self._helpers = [
            threading.Thread(target=_help, args=(*shared, t, threads), name=f"autotune-{t}", daemon=True)
            for t in range(1, threads)
        ]
        for helper in self._helpers:
            helper.start()
        self._end = weakref.finalize(self, _end, *shared, threads)  # a team dropped without a close ends too

    def run(self, functions: int, arguments: int, count: int, times: int = 0) -> None:
        """Run `count` steps: addresses of int64 arrays of kernel addresses and of argument blocks.

        times: 0, or the address of count + 1 int64 that receive the monotonic clock (ns) around each step.
        """
        if not self._end.alive:
            raise RuntimeError("the team is closed")
        if count == 0:  # no barrier would keep the next job from overwriting this one while a helper reads it
            return
        _native(_run)(self._state, self.threads, functions, arguments, count, times)

    def close(self) -> None:
        """Let the helper threads end. Idempotent."""
        self._end()
        for helper in self._helpers:
            helper.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
