"""Which configurations to compile: the valid ones, or some of them, and what each constraint keeps from a compiler."""

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kernel_templates.space import Config, Space

LISTED = 200_000  # configurations, before constraints, up to which all are looked at
DRAWN = 20_000  # of a larger space
SEED = 0


@dataclass(frozen=True)
class Choice:
    """configs: to compile; valid: how many there are, None if the space is too large to list; seen: configurations
    looked at; dropped: of those, by the first constraint that each breaks."""

    configs: tuple[Config, ...]
    valid: int | None
    seen: int
    dropped: Mapping[str, int]


def choose(space: Space, limit: int | None) -> Choice:
    """The default first; with a limit others drawn at random, the same every time."""
    size = math.prod(len(p.values) for p in space.parameters)
    draws = random.Random(SEED)
    if size <= LISTED:
        found, dropped = _sorted_out(space, _every(space))
    else:
        drawn = ({p.name: draws.choice(p.values) for p in space.parameters} for _ in range(DRAWN))
        found, dropped = _sorted_out(space, drawn)
    others = [config for config in dict.fromkeys(found) if config != space.default]
    if limit is not None and len(others) >= limit:
        others = draws.sample(others, limit - 1)
    listed = size <= LISTED
    return Choice((space.default, *others), len(found) if listed else None, size if listed else DRAWN, dropped)


def _every(space: Space):
    names = [p.name for p in space.parameters]
    at = [0] * len(names)
    for number in range(math.prod(len(p.values) for p in space.parameters)):
        for i, p in enumerate(space.parameters):
            number, at[i] = divmod(number, len(p.values))
        yield {name: p.values[a] for name, p, a in zip(names, space.parameters, at, strict=True)}


def _sorted_out(space: Space, points) -> tuple[list[Config], dict[str, int]]:
    found, dropped = [], Counter[str]()
    for point in points:
        broken = next((c for c in space.constraints if not c.holds(point)), None)
        if broken is None:
            found.append(Config(point))
        else:
            dropped[f"{broken.name}: {broken.reason}"] += 1
    return found, dict(dropped)
