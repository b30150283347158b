"""Foreign files: their first bytes, text and JSON, read within bounds; one kind of error for them all."""

import codecs
import gzip
import hashlib
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema

from autotune import UserError
from tuning_db.profile_records import Provenance

HEAD_BYTES = 1 << 20  # a program may say much before its profiler prints the table
NO_END = "no end mark"  # in the note of a file that cannot say whether it is whole, as all files of its format
LARGEST_TEXT = 1 << 29  # bytes, also of what a packed file unpacks to: 5 kB of xz can become 2 GB
LARGEST_JSON = 1 << 28  # bytes: a recorded space of 100,000 configurations has half of it
# Python makes up to 64 bytes of a value and 250 of an object, however short they are in the file: this much is 1 GB.
LARGEST_COUNT, OBJECT, LIST = 1 << 24, 4, 2  # values in a JSON document; an object and a list count as so many
ENOUGH = 64  # bytes that tell the encoding of a text
UTF8 = "utf-8-sig"
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
XZ_MEMORY = 256 << 20  # bytes that a dictionary may take; xz -9 needs 65 MiB


def unusable(path: Path, what: str, advice: str) -> UserError:
    """One line: what is wrong with which file, and what to do."""
    return UserError(f"{path} {what}; {advice}")


@contextmanager
def bounded_numbers(path: Path) -> Iterator[None]:
    """A number in the file that Python or the database cannot hold (OverflowError, ValueError) becomes a UserError."""
    try:
        yield
    except (OverflowError, ValueError) as error:
        raise unusable(path, f"is damaged: {error}", "record or export it again") from None


def head_of(path: Path) -> bytes:
    """The first bytes of a file, decompressed if it is packed, in UTF-8 if it is text in UTF-16. Raises UserError."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the name") from None
    kind = "an xz file" if head.startswith(XZ) else "a gzipped file"
    try:
        if head.startswith(XZ):
            head = lzma.LZMADecompressor(memlimit=XZ_MEMORY).decompress(head, HEAD_BYTES)
        elif head.startswith(GZIP):
            head = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
    except (zlib.error, lzma.LZMAError):
        raise unusable(path, f"is damaged: it begins as {kind}", "copy it again") from None
    if (encoding := encoding_of(head[:ENOUGH])) != UTF8:
        return head[: len(head) & ~1].decode(encoding, "replace").encode()
    return head.removeprefix(codecs.BOM_UTF8)


def encoding_of(beginning: bytes) -> str:
    """Of text, by its first bytes: UTF-16, which PowerShell writes with a mark and others without one; else UTF-8."""
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = beginning[::2], beginning[1::2]
    if len(beginning) == ENOUGH and (any(even), any(odd)) != (True, True):  # what profilers write begins in ASCII
        if all(even):
            return "utf-16-le"
        if all(odd):
            return "utf-16-be"
    return UTF8


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A file as its reader wants it: one packed with gzip or xz is unpacked into a folder that goes when this is left,
    under its name without the ending. Raises UserError."""
    with path.open("rb") as file:
        magic = file.read(len(XZ))
    if not magic.startswith((XZ, GZIP)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / (path.stem or "file")
        try:
            with lzma.open(path) if magic.startswith(XZ) else gzip.open(path) as packed, target.open("wb") as out:
                while part := packed.read(1 << 20):
                    if out.tell() + len(part) > LARGEST_TEXT:
                        raise UserError(f"{path} unpacks to more than {LARGEST_TEXT:,} bytes; import a part of it")
                    out.write(part)
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile):
            raise unusable(path, "is damaged: it cannot be unpacked", "copy it again") from None
        yield target


def text(path: Path, most: int = LARGEST_TEXT) -> str:
    """All of a file, gzipped or not, of at most so many bytes. Raises UserError."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise UserError(f"{path} has more than {most:,} bytes of text; import a part of it")
        return data.decode(encoding_of(data[:ENOUGH]))
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError):
        raise UserError(f"{path} is damaged: it is no UTF-8 text, or its end is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def json_of(path: Path, words: str | None = None) -> Any:
    """The JSON content of a file, or of `words` that were read from it. Raises UserError."""
    words = text(path, LARGEST_JSON) if words is None else words
    if words.count(",") + OBJECT * words.count("{") + LIST * words.count("[") > LARGEST_COUNT:
        raise UserError(f"{path} has more than some {LARGEST_COUNT:,} values; import a part of it")
    try:
        return json.loads(words)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {str(error)[:120]}") from None


def check_schema(document: Any, schema: Mapping[str, Any], what: str) -> None:
    """Raises UserError with the first thing that JSON Schema finds wrong; what: names the document."""
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if wrong is not None:
        where = "/".join(map(str, wrong.absolute_path)) or "the document"
        raise UserError(f"{what} is no such document: {where}: {wrong.message[:160]}")


def write(path: Path, content: str) -> None:
    """Replace a file in one step, gzipped (the same bytes every time) if its name ends in .gz. Raises UserError."""
    data = content.encode()
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another file") from None


def provenance(
    path: Path, tool: str, format: str, found: int, expected: int | None, note: str, **about: Any
) -> Provenance:
    """A file's record, with its SHA-256 and size; about: further fields of Provenance."""
    with path.open("rb") as file:
        sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    return Provenance(
        file=path.name, sha256=sha256, size_bytes=size, tool=tool, format=format, found=found, expected=expected,
        note=note, **about,
    )  # fmt: skip
