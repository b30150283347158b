"""From a Python function to machine code with one calling convention, cached on disk.

Every CPU kernel is a C function `void kernel(int64 arguments, int64 sync, int64 thread, int64 threads)`: `arguments`
addresses a block of int64 (pointers and sizes, laid out by the kernel's own file), `sync` a barrier, and the call runs
one thread's share of the work. The uniform shape lets one compiled loop run a whole token (`graph.py`).
"""

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

SIGNATURE = types.void(types.int64, types.int64, types.int64, types.int64)


@dataclass(frozen=True)
class Kernel:
    """Compiled code: its address, how long compiling took (seconds, 0 when it came from the cache) and what owns it."""

    address: int
    compile_s: float
    owner: object


@functools.cache
def _sources() -> str:
    """A hash over every kernel source: numba's cache sees only the file of the kernel itself, not what it inlines."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(root.glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _StableCache(FunctionCache):
    """Numba keys a closure by its pickled cells, and an intrinsic pickles differently in each process: every start of
    the engine would compile again. A kernel is fully said by its template, problem and configuration: key by those."""

    def __init__(self, function: Callable, key: str):
        self.key = key
        super().__init__(function)

    def _index_key(self, sig, codegen):
        return (str(sig), codegen.magic_tuple(), self.key, _sources())


def compile_kernel(function: Callable, key: str) -> Kernel:
    """Compile `function(arguments, sync, thread, threads)`; `key` names template, problem and configuration in full.

    Raises numba's errors when the function does not compile.
    """
    start = perf_counter()
    callback = CFunc(function, (SIGNATURE.args, SIGNATURE.return_type), {}, {"nopython": True, "error_model": "numpy"})
    if not os.environ.get("AUTOTUNE_NO_KERNEL_CACHE"):
        callback._cache = _StableCache(function, key)
    callback.compile()
    spent = 0.0 if callback.cache_hits else perf_counter() - start
    return Kernel(callback.address, spent, callback)
