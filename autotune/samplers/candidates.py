"""Which configurations of a space that is too large to list a sampler chooses from: any, and those near the best."""

import random
from collections.abc import Iterator, Sequence

from kernel_templates.space import Config, Space

ANY = 1500
NEAR = 1000  # changes of two or three parameters, and mixtures
FEW = 8  # of the best, from which they start


def candidates(space: Space, best: Sequence[Config], random: random.Random) -> dict[Config, None]:
    """Valid configurations, in the order they were found. best: those that worked, the fastest first."""
    found: dict[Config, None] = {}
    few = best[:FEW] or [space.default]
    for config in few:
        found |= dict.fromkeys(neighbours(space, config))
    for _ in range(NEAR):
        config = _mixed(random.choice(few), random.choice(few), random) if random.random() < 0.3 else random.choice(few)
        config = _moved(space, config, random)
        if space.broken(config) is None:
            found[config] = None
    for _ in range(ANY):
        if (drawn := space.draw(random)) is not None:
            found[drawn] = None
    return found


def neighbours(space: Space, config: Config) -> Iterator[Config]:
    """Every valid configuration that differs in one parameter by one place in its list of values."""
    for p in space.parameters:
        at = p.values.index(config[p.name])
        for value in p.values[max(0, at - 1) : at] + p.values[at + 1 : at + 2]:
            found = Config({**config, p.name: value})
            if space.broken(found) is None:
                yield found


def _mixed(one: Config, other: Config, random: random.Random) -> Config:
    return Config({name: random.choice((one, other))[name] for name in one})


def _moved(space: Space, config: Config, random: random.Random) -> Config:
    """Two or three parameters one or two places further in their lists."""
    values = dict(config)
    for p in random.sample(space.parameters, min(random.randint(2, 3), len(space.parameters))):
        at = p.values.index(config[p.name]) + random.choice((-2, -1, -1, 1, 1, 2))
        values[p.name] = p.values[min(max(at, 0), len(p.values) - 1)]
    return Config(values)
