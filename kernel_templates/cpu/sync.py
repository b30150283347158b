"""Threads that agree with each other inside compiled code: atomics, waiting, and a barrier.

A parallel region of an ordinary runtime costs 10-20 us and a token has 200 of them; a barrier between threads that are
already running costs well under one. A thread that waits spins briefly and then sleeps in the kernel (a futex), because
the one it waits for may need this very core. Everything is addressed by plain int64 byte addresses.
"""

import platform
import sys

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from kernel_templates.cpu.compile import device_function

LINE = 64  # bytes in a cache line: words that different threads write never share one
SPINS, YIELDS = 128, 4
"""A thread at a barrier spins SPINS times (about 4 us of x86 `pause`), gives its core to whoever is ready for it, and
sleeps after YIELDS such rounds."""
NAP_US = 50  # where there is no futex

_I64 = ir.IntType(64)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine() if sys.platform == "linux" else "", 0)
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE, _EVERYONE = 128, 129, 2**31 - 1


def _at(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`; what was written before its store is visible afterwards."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_at(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write int64 `value`; everything written before it is visible to whoever loads it."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], _at(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at `address` and return what it was before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _at(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the core that this is a spin loop (x86 `pause`); nothing elsewhere."""

    def codegen(context, builder, sig, args):
        if "86" in str(builder.module.triple):
            fn_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, fn_type, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _sleep_until_changed(word, old):
    """Sleep while the int64 at `word` is `old`. The count of sleepers behind it tells the writer whom to wake."""
    atomic_add(word + 8, 1)
    while atomic_load(word) == old:
        if _FUTEX:  # compares the low 32 bits again, so that a change since the line above is not slept through
            _syscall(_FUTEX, word, _FUTEX_WAIT_PRIVATE, old & 0xFFFFFFFF, 0, 0, 0)
        else:
            _usleep(NAP_US)
    atomic_add(word + 8, -1)


def _wake_sleepers(word):
    if _FUTEX:
        _syscall(_FUTEX, word, _FUTEX_WAKE_PRIVATE, _EVERYONE, 0, 0, 0)


# Out of line: barriers are inlined into every kernel, and these parts run when time is lost anyway.
_sleep = device_function("futex wait", _FUTEX, NAP_US, inline=False)(_sleep_until_changed)
_wake = device_function("futex wake", _FUTEX, inline=False)(_wake_sleepers)


@njit(inline="always")
def await_change(word, old, spins, yields):
    """Wait until the int64 at `word` is no longer `old`. `word`: address of two int64, the second counts sleepers."""
    rounds, spun = 0, 0
    while atomic_load(word) == old:
        relax()
        spun += 1
        if spun >= spins:
            spun = 0
            rounds += 1
            if rounds > yields:
                _sleep(word, old)
            else:
                _sched_yield()


@njit(inline="always")
def advance(word):
    """Add 1 to the int64 at `word` and wake those who sleep in `await_change`."""
    atomic_add(word, 1)
    if atomic_load(word + 8) != 0:
        _wake(word)


@njit(inline="always")
def barrier(sync, threads):
    """Wait until all `threads` have come here. `sync`: address of two zeroed cache lines (count, generation)."""
    if threads == 1:
        return
    generation = atomic_load(sync + LINE)
    if atomic_add(sync, 1) == threads - 1:
        atomic_store(sync, 0)
        advance(sync + LINE)
        return
    await_change(sync + LINE, generation, SPINS, YIELDS)


@njit(inline="always")
def comes_last(sync, threads):
    """Whether the other `threads` have all been here; then what they wrote before is visible, and counting begins anew.

    For a little work that needs all of theirs, before a barrier that comes anyway: nobody waits here. Between two uses
    lies a barrier. `sync` as of `barrier`, beside whose count this one lies.
    """
    if threads == 1:
        return True
    if atomic_add(sync + 8, 1) < threads - 1:
        return False
    atomic_store(sync + 8, 0)
    return True
