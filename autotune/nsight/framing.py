"""The frame of an .ncu-rep file, checked before NVIDIA's library sees it: that reads empty, foreign and truncated files
without a complaint, and gives what happens to be there.

The format (Nsight Compute ships its Protocol Buffers definitions in extras/FileFormat): the four bytes "NVR\\0"; a
header; then blocks, each a header and as many bytes of payload as that says: its sources, results and range results.
Every header and every entry of a payload is a message behind its size, 4 bytes, least significant byte first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"NVR\0"
SOURCES, RESULTS, PAYLOAD, RANGES = 1, 2, 5, 7  # field numbers of a block's header
LARGEST = 1 << 31


class Damaged(Exception):
    """Not an .ncu-rep file, or not a whole one. results, declared: those before the damage, and those announced."""

    def __init__(self, what: str, results: int = 0, declared: int = 0):
        super().__init__(what)
        self.results, self.declared = results, declared


@dataclass(frozen=True)
class Block:
    """Where a block's payload lies in the file, and how many entries of each kind it has."""

    start: int
    end: int
    sources: int
    results: int
    ranges: int


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
        declared = sum(b.results + b.ranges for b in found)
        if whole < block.sources + block.results + block.ranges or block.end > len(data):
            before = sum(b.results + b.ranges for b in found[:-1])
            mine = min(max(0, whole - block.sources), block.results + block.ranges)
            raise Damaged(f"ends in the middle of block {len(found)}", before + mine, declared)
        at = block.end
    if not any(block.results or block.ranges for block in found):
        raise Damaged("has no kernels in it")
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


def _block(header: bytes, start: int, before: list[Block]) -> Block:
    counts = {SOURCES: 0, RESULTS: 0, PAYLOAD: 0, RANGES: 0}
    try:
        for number, value in fields(header):
            if number in counts and isinstance(value, int):
                counts[number] = value
    except Damaged as error:
        raise _after(str(error), before) from None
    if max(counts.values()) > LARGEST:
        raise _after("has a block that is too large", before)
    return Block(start, start + counts[PAYLOAD], counts[SOURCES], counts[RESULTS], counts[RANGES])


def _entries(data: bytes, block: Block) -> int:
    """How many entries of a block lie whole within its payload and the file; they must fill it."""
    at, count, wanted = block.start, 0, block.sources + block.results + block.ranges
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
    results = sum(block.results + block.ranges for block in before)
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
