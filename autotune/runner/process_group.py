"""Processes that do not outlive their parent, and take what they started along.

A worker leads a process group, so that killing it ends the compilers it runs and whatever a candidate forked. On Linux
the kernel kills it when its parent dies, also while a candidate hangs in native code and reads no pipe any more;
elsewhere it ends when it next reads the pipe.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent() -> None:
    """Lead a group, and be killed when the thread that started this process ends (prctl(2)); forgotten by a fork."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_group(leader: int) -> None:
    """Kill a process that was not reaped yet and everything in its group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def status_of(child: int) -> int | None:
    """The exit status of a child of ours as subprocess counts it, None while it runs. Its group ends with it."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: what the child started is left to end by itself
        ended, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None
    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return None
    end_group(child)  # before it is reaped: until then no other process can have its number
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class GroupLeader:
    """A started process that leads a group, with as much of Popen as is needed."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.pid = process.pid

    def kill(self) -> None:
        """Have it end with its group, without waiting."""
        if self.poll() is None:
            end_group(self.pid)

    def poll(self) -> int | None:
        if self._process.returncode is None:
            self._process.returncode = status_of(self.pid)
        return self._process.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self._process.args, timeout or 0.0)
            time.sleep(0.002)
        return status
