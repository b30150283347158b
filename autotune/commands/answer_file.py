"""The file that answers are written to, one JSON object a line: whole lines only, however a run ends, and a later run
with the same prompts and settings goes on from what is there.

A line begins with "index" and "request", a digest of the prompt and its settings by which it is recognized. What is
there is read once: a last line without its end is what a killed run left of it, and is cut off.
"""

import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from autotune import UserError
from autotune.commands import options

BEGINNING = b'{"index": '
MOST_BYTES = 64 << 20
"""Of a line that this command may have written."""
SYNC_S = 1.0
"""Answers of so many seconds may be lost when the machine stops; none when the process does."""

Key = tuple[str, str | int]


class AnswerFile:
    """A context manager. done: indices of prompts that are answered in the file; what failed is taken out of it, to be
    tried again."""

    def __init__(self, path: Path | None, wanted: Mapping[Key, tuple[int, str]]):
        """path: None is stdout; wanted: the index and the digest of each prompt, by `PromptLine.key`.

        Raises UserError when the file holds anything else than answers to these, or another run writes to it; OSError.
        """
        self.path, self.done = path, frozenset[int]()
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        if path is None:
            return
        self._regular = not path.exists() or path.is_file()
        if not self._regular:  # a pipe, a terminal
            self._file = path.open("ab", buffering=0)
            return
        options.writable(path, "--output")
        self._file = _locked(path)
        try:
            self.done = self._go_on(wanted)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if self._regular:
                os.fsync(self._file.fileno())
            self._file.close()

    def write(self, index: int, digest: str, answer: Mapping[str, Any]) -> None:
        """Append one line. Raises OSError."""
        document = {"index": index, "request": digest, **answer}
        data = _one_line(json.dumps(document, ensure_ascii=False, allow_nan=False)).encode() + b"\n"
        assert data.startswith(BEGINNING)
        if self._file is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        _put(self._file, data)
        now = time.monotonic()
        if self._regular and now - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = now

    def _go_on(self, wanted: Mapping[Key, tuple[int, str]]) -> frozenset[int]:
        """Read what is there, cut off a torn line, take out what failed."""
        file, path = self._file, self.path
        assert file is not None and path is not None
        done: set[int] = set()
        failed: set[int] = set()  # numbers of lines
        whole = number = 0
        with path.open("rb") as lines:
            while raw := lines.readline(MOST_BYTES):
                number += 1
                if not raw.endswith(b"\n"):
                    if not (raw.startswith(BEGINNING) or BEGINNING.startswith(raw)) or len(raw) == MOST_BYTES:
                        raise _foreign(path, number)
                    break
                index, error = _recognized(raw, path, number, wanted)
                whole += len(raw)
                if error:
                    failed.add(number)
                else:
                    done.add(index)
        if failed:
            self._file = _without(path, file, failed, whole)
        elif whole < os.fstat(file.fileno()).st_size:
            os.ftruncate(file.fileno(), whole)
        return frozenset(done)


def _one_line(document: str) -> str:
    """JSON without what some readers take for the end of a line (`str.splitlines` does), which only stands in texts."""
    return document.translate({ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})


def _foreign(path: Path, number: int) -> UserError:
    return UserError(f"--output: line {number} of {path} is no answer that this command wrote; name another file")


def _recognized(raw: bytes, path: Path, number: int, wanted: Mapping[Key, tuple[int, str]]) -> tuple[int, bool]:
    """The index of the prompt that a line answers, and whether it failed."""
    try:
        found = json.loads(raw)
        index, digest, identity = found["index"], found["request"], found.get("id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _foreign(path, number) from None
    key = ("index", index) if identity is None else ("id", identity)
    known = wanted.get(key) if type(key[1]) in (str, int) else None
    if known is None or known[1] != digest:
        name = f"prompt {index}" if identity is None else f"id {json.dumps(identity)[:60]}"
        raise UserError(
            f"--output: {path} answers other prompts or the same with other settings (line {number}: {name}); name "
            "another file, or remove this one"
        )
    return known[0], "error" in found


def _locked(path: Path) -> IO[bytes]:
    """The file, made if it is not there, which no other run writes to until this closes it. Raises UserError."""
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"--output: another run writes to {path}; wait for its end or name another file") from None
    except OSError:  # a file system without locks
        pass
    return file


def _without(path: Path, old: IO[bytes], failed: set[int], whole: int) -> IO[bytes]:
    """The file anew, without lines of these numbers and what comes after `whole` bytes; locked before it is there."""
    target = path.resolve()
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        new = _locked(unfinished)
        new.truncate(0)  # a run may have been killed here
        os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(old.fileno()).st_mode))
        with path.open("rb") as lines:
            number = 0
            while lines.tell() < whole:
                raw, number = lines.readline(), number + 1
                if number not in failed:
                    _put(new, raw)
        os.fsync(new.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    old.close()
    return new


def _put(file: IO[bytes], data: bytes) -> None:
    """All of it, in one call unless the system takes less."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
