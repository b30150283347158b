"""From a Python function to machine code with one calling convention, cached on disk.

Every CPU kernel is a C function `void kernel(int64 arguments, int64 sync, int64 thread, int64 threads)`: `arguments`
addresses a block of int64 (pointers and sizes, laid out by the kernel's own file), `sync` a barrier, and the call runs
one thread's share of the work. The uniform shape lets one compiled loop run a whole token (`graph.py`).
"""

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import llvmlite.binding as llvm

from kernel_templates import cache_folder, collector, sources

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
def software() -> str:
    """What machine code follows from besides a kernel and this processor: every kernel source, and the compiler."""
    return f"{version('numba')} {version('llvmlite')} {sources.digest()}"


def cache_directory() -> Path:
    """Where compiled kernels are kept."""
    return cache_folder.path() / "kernels"


@functools.cache
def _target() -> tuple:
    """What machine code depends on besides its sources: this processor, and how the environment sets Numba up."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    features = llvm.get_host_cpu_features().flatten()
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), features, settings


def _path(function: Callable, key: str, words: int) -> Path:
    """The file of a kernel, whose name holds everything that the machine code depends on."""
    about = repr((key, words, *_target(), software(), sources.of_file(function.__code__.co_filename)))
    return cache_directory() / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.kernel"


def _save(path: Path, symbol: str, needed: list[str], code: bytes) -> None:
    """A file a kernel, so that processes that compile side by side never rewrite each other's: a digest of all that
    follows, the kernel's symbol and those it needs on one line, the object file."""
    body = " ".join((symbol, *needed)).encode() + b"\n" + code
    cache_folder.write(path, hashlib.sha256(body).digest() + body)


def _load(path: Path) -> Kernel | None:
    """The kernel in a file; None where it is missing, cut or foreign, or needs what this process lacks: LLVM would end
    the process for either. Numba's own cache makes its whole front end ready first, which takes 0.6 s."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    names, _, code = body.partition(b"\n")
    symbol, *needed = names.decode().split(" ")
    _initialize()
    if any(llvm.address_of_symbol(name) is None for name in needed):
        return None
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # one a file: names are its own
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _loaded.append(engine)
    return Kernel(engine.get_function_address(symbol), 0.0, engine)


_loaded: list[llvm.ExecutionEngine] = []
"""Machine code stays for as long as the process lives, as Numba's does: addresses are passed on as numbers."""


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.load_library_permanently("")  # the symbols of this process: Python's and the C library's
    from numba import _helperlib

    for name in ("gil_ensure", "gil_release"):
        llvm.add_symbol(f"numba_{name}", _helperlib.c_helpers[name])


def device_function(*key: object, inline: bool = True) -> Callable:
    """njit for the closures that kernels call; `key` must say everything that the closure's code depends on.

    numba numbers symbols by process, so objects compiled by two processes can hold different code under one name, and
    a third that loads both would run the wrong one. Here equal names mean equal code.
    """

    from numba import njit

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
    kept = None if os.environ.get("AUTOTUNE_NO_KERNEL_CACHE") else _path(function, key, words)
    known = kept and _load(kept)
    if known:
        return known
    from numba import types
    from numba.core.ccallback import CFunc

    function.__qualname__ = _symbol(function, key)
    made = CFunc(function, ((types.int64,) * words, types.void), {}, {"nopython": True, "error_model": "numpy"})
    with collector.paused():
        made.compile()
    if kept:
        library = made._library
        parts = (*library._final_module.functions, *library._final_module.global_variables)
        needed = sorted({part.name for part in parts if part.is_declaration and not part.name.startswith("llvm.")})
        _save(kept, made.native_name, needed, library._get_compiled_object())
    return Kernel(made.address, perf_counter() - start, made)
