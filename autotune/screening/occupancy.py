"""How many programs a multiprocessor holds at a time.

Limits are those of the CUDA C++ Programming Guide's table "Technical Specifications per Compute Capability"; registers
are given to whole warps by 256, of which a multiprocessor has 65,536; from 8.0 on the system keeps 1 KiB of shared
memory for each program.
"""

from dataclasses import dataclass

REGISTERS, UNIT, SYSTEM = 65_536, 256, 1024


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor: warps, programs, KiB of shared memory."""

    warps: int
    programs: int
    shared: int


LIMITS = {
    70: Limits(64, 32, 96), 72: Limits(64, 32, 96), 75: Limits(32, 16, 64), 80: Limits(64, 32, 164),
    86: Limits(48, 16, 100), 87: Limits(48, 16, 164), 89: Limits(48, 24, 100), 90: Limits(64, 32, 228),
    100: Limits(64, 32, 228), 103: Limits(64, 32, 228), 120: Limits(48, 24, 100),
}  # fmt: skip


@dataclass(frozen=True)
class Occupancy:
    """programs: that a multiprocessor holds; share: of the warps it could hold; by: what allows no more."""

    programs: int
    share: float
    by: str


def occupancy(capability: int, threads: int, registers: int, shared: int) -> Occupancy:
    """For a program of so many threads, registers a thread and bytes of shared memory, 0 programs if one does not fit.

    Raises ValueError for a compute capability (90 for 9.0) that is not in the table.
    """
    if capability not in LIMITS:
        raise ValueError(f"sm_{capability} is not known; there are {', '.join(f'sm_{c}' for c in LIMITS)}")
    limits, warps = LIMITS[capability], -(-threads // 32)
    each = -(-registers * 32 // UNIT) * UNIT
    kept = SYSTEM if capability >= 80 else 0
    room = {
        "programs": limits.programs,
        "warps": limits.warps // warps,
        "registers": REGISTERS // each // warps if each else limits.programs,
        "shared memory": limits.shared * 1024 // (shared + kept) if shared + kept else limits.programs,
    }
    by = min(room, key=room.__getitem__)
    return Occupancy(room[by], room[by] * warps / limits.warps, by)
