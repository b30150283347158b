"""A matrix among a kernel's arguments, and multiplying a thread's share of its rows.

Eight int64: the addresses of the planes, the address of the compiled `blocks.compile_rows`, the number of tiles, the
rows in a tile, and where in the thread's scratch its activations lie.
"""

from collections.abc import Callable

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.simd import load_i64
from kernel_templates.cpu.tiles import Tiles, tile_count

BYTES = 64
_ROWS, _TILES, _LANES, _X = 32, 40, 48, 56


def arguments(packed: Tiles, rows: Kernel, x: int = 0) -> tuple:
    """The matrix as a kernel reads it; x: byte offset of its activations in the scratch."""
    return (*packed.arguments(), rows.address, tile_count(packed.rows, packed.lanes), packed.lanes, x)


def caller(words: int) -> Callable:
    """njit function (address of compiled code that takes so many int64, and these) -> None."""
    word = ir.IntType(64)

    @intrinsic
    def call(typingctx, function, arguments):
        def codegen(context, builder, sig, args):
            fn_type = ir.FunctionType(ir.VoidType(), [word] * words)
            given = cgutils.unpack_tuple(builder, args[1], words)
            builder.call(builder.inttoptr(args[0], fn_type.as_pointer()), given)
            return context.get_dummy_value()

        return types.void(types.int64, types.UniTuple(types.int64, words)), codegen

    return call


_call_rows = caller(6)
"""Calls `rows` of `blocks.compile_rows` at its address."""


@njit(forceinline=True)
def planes_of(matrix):
    """The addresses of its planes."""
    return load_i64(matrix), load_i64(matrix + 8), load_i64(matrix + 16), load_i64(matrix + 24)


@njit(forceinline=True)
def tiles_of(matrix):
    """How many tiles the matrix at this address has."""
    return load_i64(matrix + _TILES)


@njit(forceinline=True)
def lanes_of(matrix):
    """How many rows one of its tiles has."""
    return load_i64(matrix + _LANES)


@njit(forceinline=True)
def multiply(matrix, first, last, scratch, out, add):
    """Tiles first..last-1 times the activations in the thread's scratch, to `out` float32 [rows]; `add`: 1 to add."""
    _call_rows(load_i64(matrix + _ROWS), (matrix, first, last, scratch + load_i64(matrix + _X), out, add))


@njit(forceinline=True)
def multiply_share(matrix, thread, threads, scratch, out, add):
    """The thread's share of the tiles, times the activations in its scratch."""
    count = tiles_of(matrix)
    multiply(matrix, first_of(count, thread, threads), first_of(count, thread + 1, threads), scratch, out, add)


@njit(forceinline=True)
def first_of(count, thread, threads):
    """The first of a thread's pieces when `count` of them are dealt out in a row, as evenly as they come.

    `first_of(count, thread + 1, threads)` is their end.
    """
    return count * thread // threads
