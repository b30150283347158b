"""Machine code that cannot be right: ptxas 12.8 makes some of products on Hopper's tensor cores (wgmma).

Where it computes where an operand lies in shared memory, it may start from a register that nothing has written yet: no
instruction at all, or only later ones. Such a kernel gives numbers that depend on what ran before it, or ends with an
illegal access. Registers that hold anything are elsewhere no fault: half of a word may not matter.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([\w.]+)\s*([^;]*);")
_REGISTER = re.compile(r"\b(U?R)(\d+)\b")
_PREDICATE = re.compile(r"!?U?P\w")
_DESCRIPTORS = re.compile(r"gdesc\[UR(\d+)\]")
_ENDS = ("BRA", "EXIT")
_ELSEWHERE = ("CALL", "BRX", "JMX", "JMP", "RET")
"""Control goes where this does not follow it."""

_LOADS = ("LD", "ULD", "ATOM")

Register = tuple[str, int]


@dataclass(frozen=True)
class _Instruction:
    """address: of it; target: of the one that it may jump to, if any; certain: it has no predicate."""

    address: int
    target: int | None
    certain: bool
    name: str
    operands: str
    written: tuple[Register, ...]
    read: tuple[Register, ...]


def unwritten(sass: str) -> dict[str, str]:
    """Uniform registers that say where an operand lies in memory, computed on every path from a register that was not
    written before -> the first instruction that takes them as such; sass: as cuobjdump prints it, of sm_90."""
    code = [_instruction(*match.groups(default="")) for match in _LINE.finditer(sass)]
    if any(each.name.split(".")[0] in _ELSEWHERE for each in code):
        return {}
    places = {each.address: i for i, each in enumerate(code)}
    known: list[frozenset[Register] | None] = [frozenset(), *[None] * len(code)]  # None: no path has come here yet
    changed = bool(code)
    while changed:
        changed = False
        for i, each in enumerate(code):
            before = known[i]
            if before is None:
                continue
            after = _after(each, before)
            ends = each.certain and each.name.split(".")[0] in _ENDS
            for n in [*([] if ends else [i + 1]), *([places[each.target]] if each.target in places else [])]:
                old = known[n]
                if old is None or not after <= old:
                    known[n], changed = after | (old or frozenset()), True
    found: dict[str, str] = {}
    for each, before in zip(code, known, strict=False):
        if before is not None and "[" in each.operands:
            for kind, number in each.read:
                if kind == "UR" and (kind, number) not in before:
                    found.setdefault(f"{kind}{number}", f"{each.name} {each.operands.strip()}")
    return found


def _after(each: _Instruction, known: frozenset[Register]) -> frozenset[Register]:
    """Registers that hold what was computed from written ones, behind an instruction. What is loaded always does."""
    if not each.written:
        return known
    if each.name.startswith(_LOADS) or all(register in known for register in each.read):
        return known.union(each.written)
    return known.difference(each.written) if each.certain else known


def _instruction(address: str, predicate: str, name: str, rest: str) -> _Instruction:
    base = name.split(".")[0]
    target = re.search(r"\b0x([0-9a-f]+)", rest) if base == "BRA" else None
    operands = [operand.strip() for operand in rest.split(",")]
    while operands and _PREDICATE.fullmatch(operands[0]):
        del operands[0]
    written: tuple[Register, ...] = ()
    first = _REGISTER.fullmatch(operands[0]) if operands and "SETP" not in name else None
    if first:
        written = tuple((first[1], int(first[2]) + i) for i in range(_width(name)))
        del operands[0]
    return _Instruction(
        int(address, 16), int(target[1], 16) if target else None, not predicate, name, rest, written,
        _sources(name, operands),
    )  # fmt: skip


def _width(name: str) -> int:
    """Registers that an operation writes, at least."""
    product = re.match(r"[A-Z]GMMA\.64x(\d+)x", name)
    if product:
        return int(product[1]) // 2
    if ".128" in name or name.startswith(("LDSM", "HMMA", "IMMA")):
        return 4
    return 2 if ".64" in name or ".WIDE" in name or name == "CS2R" else 1


def _sources(name: str, operands: list[str]) -> tuple[Register, ...]:
    """A product has two uniform registers for each operand in shared memory: the left one may be in a thread's own."""
    text = ",".join(operands)
    found = _DESCRIPTORS.search(text)
    if not found:
        wide = 2 if name.startswith("U") and ".64" in name else 1
        return tuple((kind, int(n) + i) for kind, n in _REGISTER.findall(text) for i in range(wide))
    left = 2 if operands[0].startswith("R") else 0
    return tuple(("UR", int(found[1]) + i) for i in range(left, 4))
