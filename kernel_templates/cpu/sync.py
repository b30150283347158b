"""Threads that agree with each other inside compiled code: atomics and a spinning barrier.

A parallel region of an ordinary runtime costs 10-20 us and a token has 200 of them; a barrier between threads that are
already running costs well under one. Everything is addressed by plain int64 byte addresses.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic

LINE = 64  # bytes in a cache line: words that different threads write never share one
SPINS_BEFORE_YIELD = 4096

_I64 = ir.IntType(64)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


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
def atomic_exchange(typingctx, address, value):
    """Write int64 `value` and return what it replaced."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _at(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_exchange(typingctx, address, expected, value):
    """Write `value` if the int64 at `address` is `expected`; True if it was."""

    def codegen(context, builder, sig, args):
        pair = builder.cmpxchg(_at(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the core that this is a spin loop (x86 `pause`); nothing elsewhere."""

    def codegen(context, builder, sig, args):
        if "86" in str(builder.module.triple):
            fn_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, fn_type, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@njit(inline="always")
def barrier(sync, threads):
    """Wait until all `threads` have come here. `sync`: address of two zeroed cache lines (count, generation).

    Spins, and gives the core away now and then so that more threads than cores still make progress.
    """
    if threads == 1:
        return
    generation = atomic_load(sync + LINE)
    if atomic_add(sync, 1) == threads - 1:
        atomic_store(sync, 0)
        atomic_add(sync + LINE, 1)
        return
    spins = 0
    while atomic_load(sync + LINE) == generation:
        relax()
        spins += 1
        if spins >= SPINS_BEFORE_YIELD:
            spins = 0
            _sched_yield()
