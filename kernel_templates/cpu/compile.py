"""From a Python function to machine code with one calling convention, cached on disk.

Every CPU kernel is a C function `void kernel(int64 arguments, int64 sync, int64 thread, int64 threads)`: `arguments`
addresses a block of int64 (pointers and sizes, laid out by the kernel's own file), `sync` a barrier, and the call runs
one thread's share of the work. The uniform shape lets one compiled loop run a whole token (`graph.py`).
"""

import contextlib
import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numba
import platformdirs
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps as numba_dumps

WORDS = 4  # int64 arguments of a kernel


@dataclass(frozen=True)
class Kernel:
    """Compiled code: its address, how long compiling took (seconds, 0 when it came from the cache) and what owns it.

    `rows`: for an operation, the compiled loops over each of its matrices, in its own order (see `blocks`).
    """

    address: int
    compile_s: float
    owner: object
    rows: tuple["Kernel", ...] = ()

    def with_rows(self, *rows: "Kernel") -> "Kernel":
        """This kernel together with the loops that it calls."""
        return replace(self, rows=rows, compile_s=self.compile_s + sum(r.compile_s for r in rows))


@functools.cache
def sources() -> str:
    """A hash over every kernel source: numba's cache sees only the file of the kernel itself, not what it inlines."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(root.glob("**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _file(name: str) -> str:
    """A hash over the file a kernel stands in, which may lie outside this package."""
    try:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError:
        return name


class _OneFileEach:
    """numba's cache of one function, kept as a file a key: processes that compile side by side never rewrite each
    other's index. A damaged or foreign entry counts as absent."""

    def save(self, key: str, data: object) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
                partial.write(numba_dumps(data))
            os.replace(partial.name, path)
        except OSError:
            pass  # an unwritable cache costs time, nothing else

    def load(self, key: str) -> object | None:
        try:
            return pickle.loads(self._path(key).read_bytes())
        except Exception:  # a missing, cut or foreign file: compile instead
            return None

    def flush(self) -> None:
        """Nothing is held back."""

    @staticmethod
    def _path(key: str) -> Path:
        return cache_directory() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.kernel"


def cache_directory() -> Path:
    """Where compiled kernels are kept: $AUTOTUNE_CACHE, else the user's cache directory. Safe to delete."""
    return Path(os.environ.get("AUTOTUNE_CACHE") or platformdirs.user_cache_path("autotune")) / "kernels"


class _StableCache(FunctionCache):
    """numba keys a closure by its pickled cells, and an intrinsic pickles differently in each process: every start of
    the engine would compile again. A kernel is fully said by its template, problem and configuration: key by those."""

    def __init__(self, function: Callable, key: str):
        super().__init__(function)
        self.key = key
        self._cache_file = _OneFileEach()

    def _index_key(self, sig, codegen):
        return (str(sig), codegen.magic_tuple(), self.key, sources(), _file(self._py_func.__code__.co_filename))


def device_function(*key: object, inline: bool = True) -> Callable:
    """njit for the closures that kernels call; `key` must say everything that the closure's code depends on.

    numba numbers symbols by process, so objects compiled by two processes can hold different code under one name, and
    a third that loads both would run the wrong one. Here equal names mean equal code.
    """

    def decorate(function: Callable) -> Callable:
        function.__qualname__ = _symbol(function, repr(key))
        return njit(forceinline=inline)(function)

    return decorate


def _symbol(function: Callable, key: str) -> str:
    return f"{function.__name__}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def compile_kernel(function: Callable, key: str, words: int = WORDS) -> Kernel:
    """Compile `function(arguments, sync, thread, threads)`, or any function of `words` int64 that returns nothing.

    `key` says everything that the code depends on: template, problem and, as far as it matters, configuration.

    Raises numba's errors when the function does not compile.
    """
    start = perf_counter()
    function.__qualname__ = _symbol(function, key)
    callback = CFunc(function, ((types.int64,) * words, types.void), {}, {"nopython": True, "error_model": "numpy"})
    if not os.environ.get("AUTOTUNE_NO_KERNEL_CACHE"):
        with contextlib.suppress(RuntimeError):  # numba finds no place it could write to
            callback._cache = _StableCache(function, key)
    callback.compile()
    spent = 0.0 if callback.cache_hits else perf_counter() - start
    return Kernel(callback.address, spent, callback)
