"""Starts what takes long before a GPU can be used, in threads, while Python imports modules and reads a model's header:
the GPU's context, and the libraries that importing torch loads, of two gigabytes.

All of it is done again, and then in no time, where it is needed; what fails here fails there, and is told.
"""

import ctypes
import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path

LIBRARY = "libtorch_cuda.so"
"""Loads what torch's own module needs."""

_threads: list[threading.Thread] = []


def begin(index: int) -> bool:
    """Begin with GPU `index`; False where there is no NVIDIA driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    _start(lambda: _context(driver, index))
    found = importlib.util.find_spec("torch")
    if found is not None and found.origin:
        library = Path(found.origin).parent / "lib" / LIBRARY
        _start(lambda: _load(library))
    return True


def finish() -> None:
    """Wait until all that was begun is done."""
    while _threads:
        _threads.pop().join()


def _start(work: Callable[[], None]) -> None:
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
