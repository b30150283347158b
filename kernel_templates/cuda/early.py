"""Starts what takes long before a GPU can be used, in threads, while Python imports modules and reads a model's header:
the GPU's context, and the libraries that importing torch loads, of two gigabytes.

All of it is done again, and then in no time, where it is needed; what fails here fails there, and is told.
"""

import atexit
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

LIBRARY = "libtorch_cuda.so"
"""Of torch; loads all the others that its own module needs."""
BRING_LIBRARIES = (
    "numpy.random", "tokenizers", "psutil", "sqlite3", "mmap", "binascii", "csv", "decimal", "heapq", "resource",
    "zoneinfo",
)  # fmt: skip
"""Modules that do, of those that the engine imports before torch."""

_threads: list[threading.Thread] = []
_begun: set[Path] = set()


def begin(index: int) -> bool:
    """Begin with the context of GPU `index` and with torch's libraries; False where there is no NVIDIA driver."""
    return begin_context(index) and begin_libraries()


def has_driver() -> bool:
    return _driver() is not None


def begin_context(index: int) -> bool:
    """Begin with the context of GPU `index`; False where there is no NVIDIA driver."""
    if (driver := _driver()) is None:
        return False
    _start(lambda: _context(driver, index))
    return True


def begin_libraries() -> bool:
    """Begin to load torch's libraries; False where there is no NVIDIA driver. The system loads one library at a time,
    so a module that brings one waits for all of them: what the engine needs is imported here first."""
    if _driver() is None:
        return False
    library = _torch_library()
    if library is not None and library not in _begun:
        _begun.add(library)
        for name in BRING_LIBRARIES:
            importlib.import_module(name)
        _start(lambda: _load(library))
    return True


def _torch_library() -> Path | None:
    """None where torch is imported already, or missing."""
    found = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    return Path(found.origin).parent / "lib" / LIBRARY if found is not None and found.origin else None


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def finish() -> None:
    """Wait until all that was begun is done."""
    while _threads:
        _threads.pop().join()


def _start(work: Callable[[], None]) -> None:
    if not _threads:
        atexit.register(finish)  # a process that ends while the driver or a library starts may crash
    _threads.append(threading.Thread(target=work, daemon=True))
    _threads[-1].start()


def _context(driver: ctypes.CDLL, index: int) -> None:
    """The context stays for as long as the process; torch's own calls find it."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _load(library: Path) -> None:
    """By the C function: Python's own way to it keeps all other threads waiting."""
    load = ctypes.CDLL(None).dlopen
    load.restype = ctypes.c_void_p
    load(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)
