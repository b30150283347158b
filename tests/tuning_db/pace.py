"""How fast the machine is at the moment, for limits of time that are the goals' on an idle one."""

import time

PACE_S = 0.02  # a million additions, where the goals were set: a model's lookups took 4.1 ms


def slack() -> float:
    """What a limit may be multiplied by, 1 or more: a neighbour of a shared machine, whom load does not show, can take
    two thirds of a core."""
    begun = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number
    return max(1.0, (time.perf_counter() - begun) / PACE_S)
