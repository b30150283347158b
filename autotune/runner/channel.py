"""The parent's end of a worker's pipe: what comes from a process that runs candidates is not taken on trust.

A candidate can write to any descriptor, so what arrives may be no message at all, half of one, or one that claims to be
gigabytes. The frames are those of multiprocessing.connection: a signed 32-bit length in network order, then a pickle.
"""

import pickle
import socket
import struct
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else the process that measures began a tenth of a second later
    from autotune.runner.protocol import Reply, Request

MOST_BYTES = 16 << 20  # of an answer; the longest is a few kilobytes
_CHUNK = 1 << 16
_LENGTH = struct.Struct("!i")


class Garbled(Exception):
    """What arrived is no answer."""


class Late(Exception):
    """The answer is not there yet, or only a part of it."""


class Channel:
    """One end of a pair of sockets; what serves at the other is a multiprocessing Connection."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self.theirs: socket.socket = theirs
        self._got = bytearray()
        self._ended = False

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        self._ours.close()

    def poll(self) -> bool:
        """Whether `receive` would not wait: for a whole answer, the end, or what cannot become an answer."""
        try:
            while not self._ended and not self._is_whole() and wait([self.fileno()], 0):
                self._read()
            return self._ended or self._is_whole()
        except (Garbled, OSError):
            return True

    def anything(self) -> bool:
        """Whether something arrived that was not received yet."""
        return bool(self._got) or self.poll()

    def send(self, request: "Request", timeout_s: float) -> None:
        """Raises OSError when the other end is closed, or does not read for so long."""
        message = pickle.dumps(request)
        self._ours.settimeout(timeout_s)
        self._ours.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self, timeout_s: float) -> "Reply":
        """The next answer. Raises Late, Garbled, and EOFError or OSError when the other end is closed."""
        until = time.monotonic() + timeout_s
        while not self._is_whole():
            if self._ended:
                raise EOFError
            if not wait([self.fileno()], max(0.0, until - time.monotonic())):
                raise Late
            self._read()
        end = _LENGTH.size + (self._length() or 0)
        message = bytes(self._got[_LENGTH.size : end])
        del self._got[:end]
        return self._answer(message)

    def _read(self) -> None:
        chunk = self._ours.recv(_CHUNK)
        self._ended = not chunk
        self._got += chunk

    def _is_whole(self) -> bool:
        length = self._length()
        return length is not None and len(self._got) >= _LENGTH.size + length

    def _length(self) -> int | None:
        if len(self._got) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._got)
        if not 0 < length <= MOST_BYTES:
            raise Garbled(f"its pipe holds {bytes(self._got[:16])!r} instead of an answer")
        return length

    def _answer(self, message: bytes) -> "Reply":
        try:
            answer = pickle.loads(message)
        except Exception as error:  # bytes that are no pickle raise whatever they happen to mean
            raise Garbled(f"its answer cannot be read ({type(error).__name__})") from error
        from autotune.runner.protocol import Reply

        if not isinstance(answer, Reply):
            raise Garbled("its answer is none")
        return answer
