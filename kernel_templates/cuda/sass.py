"""Machine code that cannot be right: ptxas 12.8 makes some of products on Hopper's tensor cores (wgmma).

Where it computes where an operand lies in shared memory, it may take a part of the address from a register that no
instruction writes. Such a kernel gives numbers that depend on what ran before it, or ends with an illegal access.
"""

import re

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)\s+([^;]*);")
_UNIFORM = re.compile(r"\bUR(\d+)\b")
_DESCRIPTORS = re.compile(r"gdesc\[UR(\d+)\]")


def unwritten(sass: str) -> dict[int, str]:
    """Uniform registers that an instruction of a kernel reads and none writes -> the first that reads them; sass: as
    cuobjdump prints it, of sm_90."""
    written: set[int] = set()
    read: dict[int, str] = {}
    for operation, rest in _INSTRUCTION.findall(sass):
        operands = [operand.strip() for operand in rest.split(",")]
        while operands and re.fullmatch(r"!?U?P\w", operands[0]):
            del operands[0]
        target = _UNIFORM.fullmatch(operands[0]) if operands and "SETP" not in operation else None
        if target:
            first = int(target[1])
            written.update(range(first, first + _width(operation)))
            del operands[0]
        for number in _sources(operation, operands):
            read.setdefault(number, f"{operation} {rest.strip()}")
    return {number: by for number, by in read.items() if number not in written}


def _width(operation: str) -> int:
    """Registers that an operation writes."""
    return 4 if ".128" in operation else 2 if ".64" in operation or ".WIDE" in operation else 1


def _sources(operation: str, operands: list[str]) -> list[int]:
    """A product has two registers for each operand in shared memory: the left one may be in a thread's own."""
    text = ",".join(operands)
    found = _DESCRIPTORS.search(text)
    if not found:
        return [int(number) for number in _UNIFORM.findall(text)]
    left = 2 if operands[1].startswith("R") else 0
    return list(range(int(found[1]) + left, int(found[1]) + 4))
