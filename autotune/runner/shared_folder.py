"""The folder in which workers of one tuning run leave files for each other; a killed run's goes when the next starts.

A run holds a lock in its folder. The kernel lets go of it when the process dies, however it dies, so a folder whose
lock can be had belongs to no run.
"""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "autotune-"
LOCK = "in-use"
TRIES = 10
YOUNG_S = 60.0  # a folder without a lock may be one that is just being made


class RunFolder:
    """A new folder under the system's temporary one. `close` removes it. Raises OSError where none can be made."""

    def __init__(self) -> None:
        remove_stale()
        for attempt in range(TRIES):
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = FileLock(path / LOCK)
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):  # a process that removes stale ones was faster
                if attempt == TRIES - 1:
                    raise
                continue
            if (path / LOCK).exists():
                break
            lock.release()
        self.path, self._lock = path, lock

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._lock.release()


def remove_stale() -> None:
    """Remove the folders of runs that were killed; those of other users cannot be and stay."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = path / LOCK
        with contextlib.suppress(OSError, Timeout):
            if not lock.exists():
                if path.is_dir() and not path.is_symlink() and time.time() - path.stat().st_mtime > YOUNG_S:
                    shutil.rmtree(path, ignore_errors=True)
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(path, ignore_errors=True)
