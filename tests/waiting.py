"""Waiting for another process: as long as a busy machine may take, and no longer than it does take."""

import time
from collections.abc import Callable

LONGEST_S = 200.0


def eventually(holds: Callable[[], object]) -> bool:
    """Whether it comes to hold."""
    until = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
