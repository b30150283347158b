"""What kernels begin with: the addresses of a matrix's planes, and the thread's share of the work."""

from numba import njit

from kernel_templates.cpu.simd import load_i64


@njit(forceinline=True)
def planes_at(arguments):
    """The four plane addresses that lie at `arguments`, a matrix as `Tiles.arguments` gives it."""
    return load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16), load_i64(arguments + 24)


@njit(forceinline=True)
def first_of(count, thread, threads):
    """The first of a thread's pieces when `count` of them are dealt out in a row, as evenly as they come.

    `first_of(count, thread + 1, threads)` is their end.
    """
    return count * thread // threads
