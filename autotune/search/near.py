"""Single steps from where a search begins; from then on, every third proposal is a step from the best.

A template's default and the winners of other shapes were chosen with knowledge that no model has yet, and what beats
them is often a step away (docs/log.md). A model that begins from nothing looks everywhere else first.
"""

import random
from collections.abc import Callable

from autotune.search.candidates import neighbours
from kernel_templates.space import Config, Space

MOST = 16  # steps from one configuration: of a large space's dozens, some
EVERY = 3  # proposals, one is a step: the way downhill, while the model looks further away


class Near:
    """Of one search. `begin` and `told` in any order; `next` gives what is worth trying, each once."""

    def __init__(self, space: Space, seed: int):
        self._space, self._random = space, random.Random(seed)
        self._first: list[Config] = []
        self._steps: list[Config] = []
        self._centres: set[Config] = set()
        self._best: tuple[float, Config] | None = None
        self._asked = 0

    def begin(self, config: Config) -> None:
        """The search begins here; of several, the last one's steps come first."""
        self._first += self._around(config)

    def told(self, config: Config, seconds: float | None) -> None:
        """None: it failed."""
        if seconds is not None and (self._best is None or seconds < self._best[0]):
            self._best = (seconds, config)

    def next(self, is_new: Callable[[Config], bool]) -> Config | None:
        """None where the sampler should choose: nothing near is left, or it is its turn."""
        if (config := _popped(self._first, is_new)) is not None:
            return config
        self._asked += 1
        if self._asked % EVERY or self._best is None:
            return None
        if self._best[1] not in self._centres:
            self._steps = self._around(self._best[1])
        return _popped(self._steps, is_new)

    def _around(self, config: Config) -> list[Config]:
        if config in self._centres:
            return []
        self._centres.add(config)
        steps = list(neighbours(self._space, config))
        return self._random.sample(steps, min(MOST, len(steps)))


def _popped(configs: list[Config], is_new: Callable[[Config], bool]) -> Config | None:
    while configs:
        if is_new(config := configs.pop()):
            return config
    return None
