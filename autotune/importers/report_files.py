"""What every importer needs of a file: its fingerprint, its text, and one kind of error for one that cannot be used."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from autotune import UserError

HEAD_BYTES = 1 << 16
LARGEST_TEXT = 1 << 30


def unusable(path: Path, what: str, advice: str) -> UserError:
    """One line: what is wrong with which file, and what to do."""
    return UserError(f"{path} {what}; {advice}")


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the name") from None


def fingerprint(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and the size in bytes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()


def rows(path: Path, starts: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a CSV from its header on, which has all of `starts` in it; what a program said before is left out.

    Raises UserError for what is no such text.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise unusable(path, "is larger than 1 GB", "export fewer launches")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise unusable(path, "is damaged: it is not UTF-8 text", "export it again") from None
    if "\0" in text:
        raise unusable(path, "is damaged: it has zero bytes in it", "export it again")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = False
    try:
        for row in reader:
            found = found or all(name in row for name in starts)
            if found and row:
                yield row
    except csv.Error as error:
        raise unusable(path, f"is damaged in line {reader.line_num} ({error})", "export it again") from None


def head_has(head: bytes, names: Sequence[str]) -> bool:
    """Whether one line of a file's beginning has all these column names."""
    text = head.decode("utf-8", "replace")
    return any(all(name in line for name in names) for line in text.splitlines())
