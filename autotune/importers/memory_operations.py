"""Names of copies and fills in Nsight Systems, one for each whatever the version spells.

Numbers as of its export's CUDA copy kinds (docs.nvidia.com/nsight-systems, "SQLite Schema Event Values"). In tables a
copy is "[CUDA memcpy HtoD]" until 2023 and "[CUDA memcpy Host-to-Device]" since; of unified memory "[CUDA Unified
Memory memcpy HtoD]", then "[CUDA memcpy Unified Host-to-Device]".
"""

import re
from functools import lru_cache

from tuning_db.profile_records import RowKind

DIRECTIONS = (
    "unknown", "HtoD", "DtoH", "HtoA", "AtoH", "AtoA", "AtoD", "DtoA", "DtoD", "HtoH", "PtoP", "Unified HtoD",
    "Unified DtoH", "Unified DtoD",
)  # fmt: skip
FILL = "[CUDA memset]"
_PLACES = {"host": "H", "device": "D", "array": "A", "peer": "P"}
_COPY = re.compile(r"\[CUDA (Unified Memory )?memcpy (Unified )?([\w-]+)\]", re.IGNORECASE)
_FILL = re.compile(r"\[CUDA (Unified Memory )?memset\b.*\]", re.IGNORECASE)
_WAY = re.compile(r"(\w+?)-?(?:to|2)-?(\w+)", re.IGNORECASE)


def direction(number: int) -> str:
    """Of a copy in an export."""
    return DIRECTIONS[number] if 0 <= number < len(DIRECTIONS) else "unknown"


def copy_name(way: str) -> str:
    return f"[CUDA memcpy {way}]"


@lru_cache(maxsize=1 << 12)
def parse(name: str) -> tuple[RowKind, str, str | None] | None:
    """Kind, name and direction of a row in a table; None for what is neither copy nor fill."""
    if _FILL.fullmatch(name.strip()):
        return RowKind.FILL, FILL, None
    found = _COPY.fullmatch(name.strip())
    if found is None:
        return None
    way = _WAY.fullmatch(found[3])
    plain = found[3] if way is None else "to".join(_PLACES.get(end.lower(), end) for end in way.groups())
    way_of_all = f"Unified {plain}" if found[1] or found[2] else plain
    return RowKind.COPY, copy_name(way_of_all), way_of_all
