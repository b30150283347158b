"""Dividing `count` pieces of work among threads: consecutive pieces, as even as they come."""

from numba import njit


@njit(forceinline=True)
def first_of(count, thread, threads):
    """The first piece of a thread; `first_of(count, thread + 1, threads)` is its end."""
    return count * thread // threads
