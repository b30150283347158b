"""One thread for the numeric libraries while their matrices are small.

BLAS and OpenMP split a product of 4,000 x 200 over all cores, and their threads spin for each other between the pieces.
Where other processes hold the cores, as compilers do in every tuning run, the waiting costs ten times the arithmetic.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_WITH_THREADS = ("numpy", "scipy.linalg", "sklearn", "torch")  # packages that bring a BLAS or an OpenMP
_lock = threading.RLock()  # the limit is the process's: two threads must not restore it in the other's order


@contextmanager
def single_thread() -> Iterator[None]:
    """BLAS and OpenMP use one thread in this context; 20 microseconds. Also a decorator."""
    with _lock, _controller(tuple(name in sys.modules for name in _WITH_THREADS)).limit(limits=1):
        yield


@cache
def _controller(loaded: tuple[bool, ...]) -> ThreadpoolController:
    """Finds the libraries in this process, which takes milliseconds; again whenever another package is loaded."""
    return ThreadpoolController()
