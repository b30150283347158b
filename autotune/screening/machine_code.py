"""Instructions of NVIDIA's machine code, as far as their cost goes: 16 bytes each, from compute capability 7.0 on.

Beside the operation an instruction says how the hardware issues it: the cycles until the next one, the barrier (of six)
that is released when its result is there, and the barriers it waits for (Jia et al. 2018, "Dissecting the NVIDIA Volta
GPU Architecture via Microbenchmarking"). Operations' numbers are those nvdisasm names; a test compares them.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

FAMILIES = {
    0x181: "load", 0x186: "store", 0x182: "constant", 0x0B9: "constant", 0x1AC: "constant", 0x183: "local",
    0x187: "local", 0x184: "shared", 0x188: "shared", 0x03B: "shared", 0x044: "shared", 0x1A8: "atomic",
    0x18E: "atomic", 0x189: "shuffle", 0x11D: "barrier", 0x192: "fence", 0x026: "dot", 0x023: "float", 0x020: "float",
    0x021: "float", 0x04A: "float", 0x008: "float", 0x009: "float", 0x00B: "float", 0x030: "half", 0x031: "half",
    0x032: "half", 0x035: "half", 0x045: "convert", 0x105: "convert", 0x106: "convert", 0x108: "special",
    0x119: "special", 0x13C: "matrix", 0x137: "matrix", 0x147: "control", 0x14D: "control", 0x118: "control",
    0x02D: "release", 0x02E: "wait", 0x18F: "prefetch",
}  # fmt: skip
"""Everything else counts as "integer". release, wait: the next kernel may start; the previous one has ended."""

BYTES = (1, 1, 2, 2, 4, 8, 16, 16)  # of a load, by its three bits
LATENCY = {
    "load": 600, "local": 40, "shared": 30, "constant": 30, "shuffle": 24, "special": 24, "barrier": 30, "atomic": 700,
    "convert": 14, "fence": 30,
}  # fmt: skip
"""Cycles until a result is there: of loads, from the second-level cache and half of the way to memory."""


@dataclass(frozen=True)
class Code:
    """What a kernel's code is made of. instructions: of one warp, without padding; mix: of each family; widest and
    narrowest: bytes a thread loads at a time, 0 without loads; loads: bytes a warp's thread loads in all; issue: cycles
    a scheduler spends on a warp; chain: cycles a warp takes that has a multiprocessor for itself; after: those of it
    that follow the wait for the previous kernel, all of them without one; loops: whether it jumps backwards, and all
    numbers are of one round."""

    instructions: int
    mix: dict[str, int]
    widest: int
    narrowest: int
    loads: int
    issue: int
    chain: int
    after: int
    loops: bool


def read(text: bytes) -> Code:
    """Raises ValueError when the code is not of whole instructions."""
    if len(text) % 16 or not text:
        raise ValueError(f"{len(text)} bytes are no machine code")
    words = np.frombuffer(text, "<u8").reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    last = _end((low & np.uint64(0xFFF)).tolist())
    low, high = low[:last], high[:last]
    families = [FAMILIES.get(op, "integer") for op in (low & np.uint64(0x1FF)).tolist()]
    control = (high >> np.uint64(41)).astype(np.int64)
    sizes = [BYTES[s] for s in ((high >> np.uint64(9)) & np.uint64(7)).tolist()]
    loaded = [size for family, size in zip(families, sizes, strict=True) if family == "load"]
    chain, after = _chain(families, control)
    return Code(
        last, dict(Counter(families)), max(loaded, default=0), min(loaded, default=0), sum(loaded),
        len(families), chain, after, _loops(families, low, high),
    )  # fmt: skip


def _end(operations: list[int]) -> int:
    """How many instructions there are before the padding: a jump to itself and what follows it."""
    at = len(operations)
    while at and operations[at - 1] == 0x918:
        at -= 1
    return max(1, at - 1) if at and operations[at - 1] == 0x947 else at


def _chain(families: list[str], control: np.ndarray) -> tuple[int, int]:
    """Cycles from the first to the last instruction of a lone warp that takes every jump forward, and of them those
    after the wait."""
    now, waited = 0, 0
    ready = [0] * 6
    stalls, writes = (control & 15).tolist(), ((control >> 5) & 7).tolist()
    waits = ((control >> 11) & 63).tolist()
    for family, stall, write, mask in zip(families, stalls, writes, waits, strict=True):
        if mask:
            now = max(now, *(ready[b] for b in range(6) if mask >> b & 1))
        if write < 6:
            ready[write] = max(ready[write], now + LATENCY.get(family, 20))
        if family == "wait":
            waited = now
        now += max(1, stall)
    return now, now - waited


def _loops(families: list[str], low: np.ndarray, high: np.ndarray) -> bool:
    """Whether a jump's distance, 48 bits from bit 34 on, in units of 4 bytes, is negative."""
    for at, family in enumerate(families):
        if family == "control" and int(low[at]) & 0xFFF == 0x947 and int(high[at]) >> 17 & 1:
            return True
    return False
