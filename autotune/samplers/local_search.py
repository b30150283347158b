"""Single steps from where a search begins. After some of them, every third proposal is near the best: a step from it,
or once those are done, what the sampler likes best of all that is two steps away.

A template's default and the winners of other shapes were chosen with knowledge that no model has yet, and what beats
them is often near (docs/log.md). A model that begins from nothing looks everywhere else first.
"""

import random
from collections.abc import Callable

from autotune.samplers.candidates import neighbours
from kernel_templates.space import Config, Space

MOST = 16  # steps from one configuration, of a large space's dozens, and steps before the model has a say
EVERY = 3  # proposals, one is a step: the way downhill, while the model looks further away


class LocalSearch:
    """The steps of one search. `begin` and `told` in any order; `next` gives what is worth trying, each once."""

    def __init__(self, space: Space, seed: int):
        self._space, self._random = space, random.Random(seed)
        self._begun: list[Config] = []
        self._times: dict[Config, float] = {}  # of those that worked
        self._best: Config | None = None
        self._steps: dict[Config, list[Config]] = {}  # from each centre, those not given yet
        self._regions: dict[Config, list[Config]] = {}
        self._given = self._asked = 0
        self.region: list[Config] = []
        """After `next` gave None, what the sampler should choose from; anything if empty."""

    def begin(self, config: Config) -> None:
        """The search begins with this: the default first, and then the likeliest of what won elsewhere."""
        self._begun.append(config)

    def told(self, config: Config, seconds: float | None) -> None:
        """None: it failed."""
        if seconds is not None:
            self._times[config] = seconds
            if self._best is None or seconds < self._times[self._best]:
                self._best = config

    def next(self, is_new: Callable[[Config], bool]) -> Config | None:
        """None where the sampler should choose: nothing near is left, or it is its turn."""
        self._asked += 1
        self.region = []
        if not self._begun:
            return None
        if self._given < MOST:
            centres = [self._likeliest(), self._begun[0]]  # in turn: what won elsewhere may be no good here
            if self._given % 2:
                centres.reverse()
        elif self._asked % EVERY:
            return None
        else:
            centres = []
        for centre in (*centres, self._best):
            step = None if centre is None else self._step(centre, is_new)
            if step is not None:
                self._given += 1
                return step
        self._given = MOST  # there were fewer: from now on it is every third
        if self._best is not None:
            self.region = self._two_steps(self._best)
        return None

    def _two_steps(self, centre: Config) -> list[Config]:
        if centre not in self._regions:
            self._regions[centre] = list(
                dict.fromkeys(far for near in neighbours(self._space, centre) for far in neighbours(self._space, near))
            )
        return self._regions[centre]

    def _likeliest(self) -> Config:
        """Of the beginnings: the fastest, or as long as none was measured, the first that won elsewhere."""
        known = [config for config in self._begun if config in self._times]
        return min(known, key=self._times.__getitem__) if known else self._begun[:2][-1]

    def _step(self, centre: Config, is_new: Callable[[Config], bool]) -> Config | None:
        if centre not in self._steps:
            around = list(neighbours(self._space, centre))
            self._steps[centre] = self._random.sample(around, min(MOST, len(around)))
        while self._steps[centre]:
            if is_new(config := self._steps[centre].pop()):
                return config
        return None
