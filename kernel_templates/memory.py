"""Host memory: aligned to cache lines and, where the system offers it, on huge pages."""

import contextlib
import mmap

import numpy as np

ALIGN = 64
HUGE = 2 * 1024 * 1024


def empty(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialized array aligned to a cache line; from 2 MiB on, it asks for transparent huge pages."""
    count = int(np.prod(shape))
    size = count * np.dtype(dtype).itemsize
    if size < HUGE:
        raw = np.empty(size + ALIGN, np.uint8)
        skip = -raw.ctypes.data % ALIGN
    else:
        block = mmap.mmap(
            -1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )  # shared memory has no huge pages
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel built without them says EINVAL
                block.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(block, np.uint8)  # keeps the mapping alive, and ends it when it goes
        skip = -raw.ctypes.data % HUGE
    return raw[skip : skip + size].view(dtype).reshape(shape)


def unwritten(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros that take no memory until they are written, then pages of their own: for what may never be filled."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(block, np.uint8)[:size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Like `empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
