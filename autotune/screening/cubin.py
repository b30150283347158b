"""What a cubin says of its kernel, read from its bytes: registers, stack, machine code. No tool is run for it.

A cubin is an ELF file; the sections `.text.KERNEL` and `.nv.info` and their layout are what `cuobjdump -elf` shows.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

REGISTERS, FRAME, STACK = 0x2F, 0x11, 0x12  # EIATTR_REGCOUNT, _FRAME_SIZE, _MIN_STACK_SIZE
SIZED = 4  # EIFMT_SVAL: two bytes say how long the value is; of the other formats, they are the value


class BadCubin(Exception):
    """Not a cubin with one kernel, or a damaged one; the message is one line."""


@dataclass(frozen=True)
class Cubin:
    """text: the kernel's machine code; registers: of a thread; spills: bytes of local memory a thread uses."""

    text: bytes
    registers: int
    spills: int


def read(data: bytes) -> Cubin:
    """Raises BadCubin."""
    try:
        sections = dict(_sections(data))
        texts = [body for name, body in sections.items() if name.startswith(".text.")]
        if len(texts) != 1:
            raise BadCubin(f"a cubin with {len(texts)} kernels")
        facts = dict(_attributes(sections.get(".nv.info", b"")))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise BadCubin(f"a damaged cubin: {error}") from None
    return Cubin(texts[0], facts.get(REGISTERS, 0), max(facts.get(FRAME, 0), facts.get(STACK, 0)))


def _sections(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and bytes, by ELF-64's headers."""
    if data[:5] != b"\x7fELF\x02":
        raise BadCubin("not an ELF-64 file")
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, start + i * size) for i in range(count)]
    table = data[headers[names][4] :]
    for name, kind, _, _, offset, length in headers:
        text = table[name : table.index(b"\0", name)].decode()
        yield text, data[offset : offset + length] if kind != 8 else b""  # 8: takes no room in the file


def _attributes(info: bytes) -> Iterator[tuple[int, int]]:
    """(attribute, value) of the kernel: the value follows the function's symbol."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, length = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != SIZED:
            continue
        if length == 8:
            yield attribute, struct.unpack_from("<II", info, at)[1]
        at += length
