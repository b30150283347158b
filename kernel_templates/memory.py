"""Host memory: aligned to cache lines and, where the system offers it, on huge pages."""

import contextlib
import mmap
from pathlib import Path

import numpy as np

ALIGN = 64
HUGE = 2 * 1024 * 1024
GROUP = Path("/sys/fs/cgroup")
"""Where a container's system says what its control group grants it."""


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


def available() -> int:
    """Bytes that new memory may take before the system swaps, or before the control group of a container ends it."""
    import psutil  # here: only those who ask pay for it

    free = psutil.virtual_memory().available
    try:
        most, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = next(
            int(line.split()[1])
            for line in (GROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
        return free if most == "max" else max(0, min(free, int(most) - int(used) + cached))
    except (OSError, ValueError, StopIteration):
        return free
