"""How fast the machine is at the moment, for limits of time that are the goals' on an idle one."""

import time

PACE_S = 0.02  # a million additions; not measured where the goals were set, but in proportion to the lookups there
MOST = 4.0


def slack() -> float:
    """What a limit may be multiplied by, 1 to MOST: a neighbour of a shared machine, whom load does not show, can take
    two thirds of a core."""
    begun = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number
    return min(max(1.0, (time.perf_counter() - begun) / PACE_S), MOST)
