"""Parses a problem key: `op:name=value,...`, where a value is an integer or a bare word.

`matvec:rows=576,cols=576,format=Q4_1` has the sizes rows and cols and the word format=Q4_1. Two problems are
comparable when only their sizes differ. The rooms that write keys know what they mean; this file knows of one thing:
how many tokens a kernel has at once decides which algorithm is fastest, more than any other size does.
"""

import math
import struct
from dataclasses import dataclass
from functools import lru_cache

WIDTHS = ("tokens", "sequences")
"""Sizes that say how many tokens a kernel has at once."""
WIDEST_STEP = 1.0
"""Doublings of such a size up to which one problem's winner is an answer for another: its next power of two and the one
before. Further away another algorithm wins, and a template's default, which depends on these sizes, is the better
guess."""
LEAST_BORROWED = 16
"""Fewer tokens than this borrow from and lend to as many only: all of a matrix's sums fit in registers there, and
what was best for 16 took up to 1.8 times the default's time (docs/log.md, "A pass as its caller waits for it")."""
FARTHEST = 3.0
"""Doublings of all sizes together up to which a kernel of several tokens borrows: eight times the work."""


@dataclass(frozen=True)
class ProblemKey:
    op: str
    sizes: tuple[tuple[str, int], ...]
    words: tuple[tuple[str, str], ...]
    family: str  # the key without the sizes' values: only problems of one family are comparable


@lru_cache(maxsize=4096)
def parse(key: str) -> ProblemKey:
    """Never fails: a field without an integer value is a word, which has to match exactly."""
    op, _, fields = key.partition(":")
    sizes: list[tuple[str, int]] = []
    words: list[tuple[str, str]] = []
    names: list[str] = []
    for field in fields.split(",") if fields else ():
        name, _, value = field.partition("=")
        # isdecimal alone would take digits of other scripts; a 20-digit "size" is a name, not a shape.
        if value.isascii() and value.isdecimal() and len(value) < 20:
            sizes.append((name, int(value)))
            names.append(name)
        else:
            words.append((name, value))
            names.append(f"{name}={value}")
    return ProblemKey(op, tuple(sizes), tuple(words), f"{op}:{','.join(names)}")


def family(key: str) -> str:
    """What `parse` calls so, for SQL."""
    return parse(key).family


def logs(key: str) -> bytes:
    """log2(1 + size) of each size as little-endian float64: in these coordinates `distance` is Euclid's."""
    found = [math.log2(size + 1) for _, size in parse(key).sizes]
    return struct.pack(f"<{len(found)}d", *found)


def row(key: str) -> dict[str, str | bytes]:
    """A problem as the table `problems` has it."""
    return {"key": key, "op": parse(key).op, "family": family(key), "logs": logs(key)}


def distance(one: ProblemKey, other: ProblemKey) -> float | None:
    """Euclidean distance between the sizes in doublings (log2); None when more than sizes differ.

    1 is added to every size first, so that a size of 0 (an absent residual, an empty cache) stays comparable.
    """
    if one.family != other.family:
        return None
    return math.sqrt(
        sum(math.log2((a + 1) / (b + 1)) ** 2 for (_, a), (_, b) in zip(one.sizes, other.sizes, strict=True))
    )


def widths(key: str) -> list[int]:
    """Which of a key's sizes, by their place in it, are of WIDTHS."""
    return [place for place, (name, _) in enumerate(parse(key).sizes) if name in WIDTHS]


def differences(wanted: ProblemKey, found: ProblemKey) -> str:
    """The fields that differ, found → wanted: "rows 576 → 1536, format Q8_0 → Q4_1"; "" when none does."""
    parts = [] if wanted.op == found.op else [f"op {found.op} → {wanted.op}"]
    have: dict[str, int | str] = {**dict(found.sizes), **dict(found.words)}
    want: dict[str, int | str] = {**dict(wanted.sizes), **dict(wanted.words)}
    for name in [*want, *(name for name in have if name not in want)]:
        if have.get(name) != want.get(name):
            parts.append(f"{name} {have.get(name, 'absent')} → {want.get(name, 'absent')}")
    return ", ".join(parts)
