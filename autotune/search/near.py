"""Single steps from where a search begins; after some of them, every third proposal is a step from the best.

A template's default and the winners of other shapes were chosen with knowledge that no model has yet, and what beats
them is often a step away (docs/log.md). A model that begins from nothing looks everywhere else first.
"""

import random
from collections.abc import Callable

from autotune.search.candidates import neighbours
from kernel_templates.space import Config, Space

MOST = 16  # steps from one configuration, of a large space's dozens, and steps before the model has a say
EVERY = 3  # proposals, one is a step: the way downhill, while the model looks further away


class Near:
    """Of one search. `begin` and `told` in any order; `next` gives what is worth trying, each once."""

    def __init__(self, space: Space, seed: int):
        self._space, self._random = space, random.Random(seed)
        self._begun: list[Config] = []
        self._centre: Config | None = None
        self._around: list[Config] = []
        self._steps: list[Config] = []  # of those around, what was not given yet
        self._best: tuple[float, Config] | None = None
        self._given = self._asked = 0

    def begin(self, config: Config) -> None:
        """The search begins with this: the default first, and then the likeliest of what won elsewhere."""
        self._begun.append(config)

    def told(self, config: Config, seconds: float | None) -> None:
        """None: it failed."""
        if seconds is not None and (self._best is None or seconds < self._best[0]):
            self._best = (seconds, config)

    def next(self, is_new: Callable[[Config], bool]) -> Config | None:
        """None where the sampler should choose: nothing near is left, or it is its turn."""
        self._asked += 1
        first = self._given < MOST
        if not self._begun or not (first or self._asked % EVERY == 0):
            return None
        # Until something was measured, what won elsewhere promises more than the default. What is first a step better
        # must not keep from the other steps: they go in all directions, and it is but one.
        centre = self._best[1] if self._best else self._begun[min(1, len(self._begun) - 1)]
        if self._centre is None or (centre != self._centre and not (first and self._steps and centre in self._around)):
            self._centre, self._around = centre, list(neighbours(self._space, centre))
            self._steps = self._random.sample(self._around, min(MOST, len(self._around)))
        while self._steps:
            config = self._steps.pop()
            if is_new(config):
                self._given += 1
                return config
        if first and centre != self._centre:
            return self.next(is_new)
        self._given = MOST
        return None
