"""A report of many launches, made from a recorded one: as `ncu --set basic` leaves it, without what takes the room."""

from collections.abc import Iterator
from itertools import pairwise

from autotune.importers import ncu_rep_framing

METRICS = 13  # of a result: one entry for each metric
KEPT = {*range(1, 13), 14, 15, 16, 21, 22, 23}  # what else names a launch; neither sections nor rules
LARGEST = 60  # bytes of a metric that has one value


def many(report: bytes, launches: int, metrics: int) -> bytes:
    """A whole file with the report's results over and over, each with its first `metrics` metrics of one value."""
    found = ncu_rep_framing.blocks(report)
    results = [report[b.start + 4 : b.end] for b in found if b.results]
    assert all(b.results == 1 for b in found if b.results)
    slim = [_slim(result, metrics) for result in results]
    # Everything before the first result, then the sources that the others need, in blocks of their own.
    first = next(b for b in found if b.results)
    head = report[: next(b for b in found if b.sources).end]
    out = bytearray(head)
    for before, block in pairwise(found):
        if block.sources and block.start > first.end:
            out += report[before.end : block.end]
    # The header of a result's block holds the names that its metrics refer to.
    previous = found[found.index(first) - 1]
    table = _without_payload(report[previous.end + 4 : first.start])
    for number in range(launches):
        payload = _sized(slim[number % len(slim)])
        out += _sized((table if number == 0 else b"") + b"\x10\x01" + b"\x28" + _varint(len(payload))) + payload
    return bytes(out)


def _slim(result: bytes, metrics: int) -> bytes:
    out, count = bytearray(), 0
    for number, raw in _spans(result):
        if number == METRICS:
            count += len(raw) <= LARGEST
            if len(raw) > LARGEST or count > metrics:
                continue
        elif number not in KEPT:
            continue
        out += raw
    return bytes(out)


def _without_payload(header: bytes) -> bytes:
    return b"".join(raw for number, raw in _spans(header) if number not in (2, 5))


def _spans(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and raw bytes, key included, of every field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _read_varint(message, at)
        elif kind == 2:
            size, at = _read_varint(message, at)
            at += size
        else:
            at += 8 if kind == 1 else 4
        yield key >> 3, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 128:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _sized(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message
