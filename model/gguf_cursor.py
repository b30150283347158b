"""A bounded walk through the header of a GGUF file: numbers, strings and arrays, never past the end of the file.

Knows how values are encoded and nothing of what they mean. Every count is compared with the bytes that are left before
it is believed. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import struct
from typing import Any

import numpy as np

from model.errors import ModelError

ARRAY, STRING, BOOL = 9, 8, 7
# Value type number -> numpy dtype, as in ggml's enum gguf_type; 8 (string) and 9 (array) have no fixed size.
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
# What a header may make us allocate, however large the file behind it is. A 262k-token vocabulary has 0.8 million
# strings of 10 MB in all; at both limits together the strings take about 0.4 GB.
MAX_STRINGS = 1 << 22  # in all arrays together
MAX_COPIED = 1 << 27  # bytes of all strings and flags together; other arrays stay in the file


class Cursor:
    """A position in the mapped file that refuses to move past the end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data, self.size, self.at = data, size, 0
        self.strings, self.copied = 0, 0

    def skip(self, count: int, what: str) -> int:
        """Advance by `count` bytes and return where they start."""
        start = self.at
        if count > self.size - start:
            raise ModelError(
                f"the file ends inside {what} (byte {self.size}); it is truncated or damaged, get it again"
            )
        self.at = start + count
        return start

    def charge(self, count: int, what: str) -> None:
        """Count bytes that are about to be copied out of the file."""
        self.copied += count
        if self.copied > MAX_COPIED:
            raise ModelError(f"{what} makes the header longer than {MAX_COPIED >> 20} MB; it is damaged, get it again")

    def number(self, code: str, what: str) -> Any:
        return struct.unpack_from("<" + code, self.data, self.skip(struct.calcsize("<" + code), what))[0]

    def string(self, what: str) -> str:
        length = self.number("Q", what)
        start = self.skip(length, what)
        self.charge(length, what)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(f"{what} is not valid UTF-8; the file is damaged, get it again") from None

    def strings_array(self, count: int, what: str) -> list[str]:
        """`count` strings; unrolled from string() because vocabularies have hundreds of thousands."""
        self.strings += count
        if count * 8 > self.size - self.at or self.strings > MAX_STRINGS:
            raise ModelError(
                f"{what} announces {count} strings, more than the file can hold; it is damaged, get it again"
            )
        data, size, out = self.data, self.size, []
        at = end = self.at
        limit = at + 8 * count + MAX_COPIED - self.copied
        read_length = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                end = at + 8 + read_length(data, at)[0]
                if end > size:
                    raise struct.error
                if end > limit:
                    break
                out.append(data[at + 8 : end].decode("utf-8"))
                at = end
        except struct.error:
            raise ModelError(f"the file ends inside {what}; it is truncated or damaged, get it again") from None
        except UnicodeDecodeError:
            raise ModelError(
                f"{what} has a string that is not valid UTF-8; the file is damaged, get it again"
            ) from None
        self.charge(end - self.at - 8 * count, what)  # refuses if the loop stopped at the limit
        self.at = at
        return out

    def value(self, kind: int, what: str) -> Any:
        """One metadata value of type number `kind`."""
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            item, count = self.number("I", what), self.number("Q", what)
            if item == STRING:
                return self.strings_array(count, what)
            if item not in SCALARS:
                detail = "nested arrays" if item == ARRAY else f"array items of unknown type {item}"
                raise ModelError(
                    f"{what} has {detail}, which no supported model needs; the file is damaged, get it again"
                )
            return self.numbers(SCALARS[item], count, item == BOOL, what)
        if kind not in SCALARS:
            raise ModelError(f"{what} has unknown value type {kind}; the file is damaged or newer than this reader")
        value = self.numbers(SCALARS[kind], 1, kind == BOOL, what)[0]
        return value.item()

    def numbers(self, dtype: str, count: int, as_bool: bool, what: str) -> np.ndarray:
        start = self.skip(count * np.dtype(dtype).itemsize, what)
        array = np.frombuffer(self.data, dtype, count, start)
        if not as_bool:
            return array
        self.charge(count, what)
        return array != 0
