"""Checks the frame of an .ncu-rep file before NVIDIA's library sees it: that reads empty, foreign and truncated files
without a complaint, and gives what happens to be there.

The format (Nsight Compute ships its Protocol Buffers definitions in extras/FileFormat): the four bytes "NVR\\0"; a
header; then blocks, each a header and as many bytes of payload as that says: its sources and results.
Every header and every entry of a payload is a message behind its size, 4 bytes, least significant byte first.

Nothing says how many blocks there should be: a file cut right behind a result looks whole, as a recording that was
stopped there would. Cut behind a source, whose results follow in the next block, it does not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"NVR\0"
# Field numbers of a block's header; results of kernels, ranges, command lists and graphs.
SOURCES, SESSION, PAYLOAD, RESULTS = 1, 3, 5, (2, 7, 8, 9)
CREATED, VERSIONS, COMMAND = 2, 8, 11  # of its session: Unix seconds, a program with its version, the command line
TOOL = "Nsight Compute"
LARGEST = 1 << 31


class Damaged(Exception):
    """Not an .ncu-rep file, or not a whole one. results, declared: those before the damage, and those announced."""

    def __init__(self, what: str, results: int = 0, declared: int = 0):
        super().__init__(what)
        self.results, self.declared = results, declared


@dataclass(frozen=True)
class Block:
    """A block: its payload's place in the file, its number of entries of each kind, its session if it has one."""

    start: int
    end: int
    sources: int
    results: int
    session: bytes = b""


def blocks(data: bytes) -> list[Block]:
    """Every block of a whole file. Raises Damaged."""
    if not data:
        raise Damaged("is empty")
    if data[:4] != MAGIC:
        raise Damaged("does not begin as an .ncu-rep file does")
    found: list[Block] = []
    at = _message_end(data, 4, found)
    for _ in fields(data[8:at]):
        pass
    while at < len(data):
        end = _message_end(data, at, found)
        block = _block(data[at + 4 : end], end, found)
        found.append(block)
        whole = _entries(data, block)
        if whole < block.sources + block.results or block.end > len(data):
            before = sum(b.results for b in found[:-1])
            mine = max(0, whole - block.sources)
            raise Damaged(f"ends in the middle of block {len(found)}", before + mine, before + block.results)
        at = block.end
    results = sum(block.results for block in found)
    if not results:
        raise Damaged("has no kernels in it")
    if found[-1].sources and not found[-1].results:
        raise Damaged("ends before the results of its last kernel", results, results + 1)
    return found


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a Protocol Buffers message. Raises Damaged for what is none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise Damaged("has a message in it that makes no sense")
        if number == 0 or at + size > len(message):
            raise Damaged("has a message in it that makes no sense")
        yield number, message[at : at + size]
        at += size


def read(path: Path) -> list[Block]:
    """`blocks` of a file on disk."""
    return blocks(path.read_bytes())


def about(found: list[Block]) -> tuple[str, int | None]:
    """The version of Nsight Compute that recorded a file, and when in Unix seconds, as far as its session says so.

    A session names the versions of several programs, CUDA's driver among them; the tool's own begins with a number,
    "2025.3.1.0 (build 36398880) (public-release)". Reports that leave it out have it in the path of the command.
    """
    version, created = "", None
    installed = ""
    for block in found:
        for number, value in fields(block.session):
            if number == CREATED and isinstance(value, int):
                created = value
            elif number == VERSIONS and isinstance(value, bytes):
                words = [word.decode("utf-8", "replace") for _, word in fields(value) if isinstance(word, bytes)]
                if len(words) > 1 and TOOL in words[0]:
                    version = version or words[1].partition(" ")[0]
            elif number == COMMAND and isinstance(value, bytes):
                path = re.search(rb"[Nn]sight[- ][Cc]ompute[\\/ -]+(\d{4}\.[\d.]*\d)", value)
                installed = installed or (path[1].decode() if path else "")
    return version or installed, created


def _block(header: bytes, start: int, before: list[Block]) -> Block:
    sources = payload = results = 0
    session = b""
    try:
        for number, value in fields(header):
            if isinstance(value, bytes):
                session = value if number == SESSION else session
            elif number == SOURCES:
                sources = value
            elif number == PAYLOAD:
                payload = value
            elif number in RESULTS:
                results += value
        for _ in fields(session):
            pass
    except Damaged as error:
        raise _after(str(error), before) from None
    if max(sources, payload, results) > LARGEST:
        raise _after("has a block that is too large", before)
    return Block(start, start + payload, sources, results, session)


def _entries(data: bytes, block: Block) -> int:
    """Number of entries of a block that lie whole within its payload and the file; they must fill it."""
    at, count, wanted = block.start, 0, block.sources + block.results
    end = min(block.end, len(data))
    while count < wanted and at + 4 <= end:
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > end:
            break
        at += 4 + size
        count += 1
    return count


def _message_end(data: bytes, at: int, before: list[Block]) -> int:
    if at + 4 > len(data):
        raise _after("ends in the middle of a header", before)
    end = at + 4 + int.from_bytes(data[at : at + 4], "little")
    if end > len(data):
        raise _after("ends in the middle of a header", before)
    return end


def _after(what: str, before: list[Block]) -> Damaged:
    results = sum(block.results for block in before)
    return Damaged(what, results, results)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise Damaged("has a message in it that makes no sense")
