"""One process at a time measures on a device: the next one waits, and says for whom.

The lock is a file in the user's state folder, named after the machine and the chip. The kernel lets go of it when the
process dies, however it dies, so nothing has to be cleaned up.
"""

import contextlib
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

LOOK_S = 0.2  # between two tries


def lock_path(identity: str) -> Path:
    """The lock of a chip of this machine; home folders may be shared by several machines."""
    name = f"{socket.gethostname()}-{identity}"
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name)[:80]
    folder = platformdirs.user_state_path("autotune", appauthor=False) / "locks"
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.lock"


@contextmanager
def measuring(identity: str, name: str, tell: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Hold the lock of a chip. identity: what tells it from others of this machine, "cpu" or a GPU's UUID; name: what
    users call it; tell: is given one line when another process holds it. May be entered again by the same thread.

    Raises OSError when the state folder cannot be written; KeyboardInterrupt ends the wait."""
    path = lock_path(identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".pid")
    lock = FileLock(path, is_singleton=True)
    told = None
    while True:
        try:
            lock.acquire(timeout=LOOK_S)
            break
        except Timeout:
            if (other := _read(holder)) != told or told is None:
                told = other
                tell(f"waiting for process {other}, which measures on {name}; Ctrl-C gives up")
    try:
        unfinished = holder.with_suffix(f".{os.getpid()}")
        unfinished.write_text(f"{os.getpid()}\n")
        unfinished.replace(holder)
        yield
    finally:
        lock.release()


def _read(holder: Path) -> str:
    with contextlib.suppress(OSError):
        if (text := holder.read_text().strip()).isdigit():
            return text
    return "of an unknown number"
