"""A search over one space as an Optuna study: ask for a configuration, tell what became of it.

The study lives in memory; the tuning database holds every trial, and earlier ones are told again when a search resumes.
"""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autotune.search import SAMPLERS
from autotune.search.pool_sampler import PoolSampler
from kernel_templates.space import Config, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

_TRIES = 30  # Optuna knows no constraints between parameters: an invalid or repeated proposal is refused and redrawn
_DRAWS = 5000  # of a space that is not listed, before it counts as exhausted
FEW_KNOWN = 8  # results before "walk" does anything but step
WITHOUT_STUDY = ("walk", "exhaustive")
LISTED = 50_000  # configurations, before constraints, up to which a space is listed; two large templates have millions


class Search:
    """Proposes configurations of a space, each valid and none twice, as a sampler directs.

    `size`: how many there are; of a space that is too large to list, before constraints.
    """

    def __init__(
        self,
        space: Space,
        sampler: str = "pool",
        seed: int = 0,
        first: Iterable[Config] = (),
        configs: Sequence[Config] | None = None,
    ):
        """first: configurations to propose before the sampler is asked, the default ahead of them all. configs: the
        valid ones, when they are known as a list; then the default is one like any other."""
        if sampler not in SAMPLERS:
            raise ValueError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
        self.space, self.sampler = space, sampler
        self.size = grid_size(space)
        self._left: dict[Config, None] | None = None
        if configs is not None or self.size <= LISTED:
            self._left = dict.fromkeys(space.configs() if configs is None else configs)
            self.size = len(self._left)
        if sampler == "pool" and self._left is None:
            self.sampler = "walk"
        self._seen: set[Config] = set()
        self._order = _every(space)
        begin = [] if configs is not None else [space.default]
        self._first = [c for c in (*begin, *first) if space.broken(c) is None]
        self._distributions: dict[str, BaseDistribution] = {
            p.name: CategoricalDistribution(p.values) for p in space.parameters
        }
        self._study = optuna.create_study(sampler=self._optuna_sampler(seed))
        self._open: dict[Config, optuna.Trial] = {}
        self._times: dict[Config, float] = {}
        self._random = random.Random(seed)

    def suggest(self, configs: Iterable[Config]) -> None:
        """Propose these next, those that are valid and new."""
        self._first += [c for c in configs if self.space.broken(c) is None]

    def replay(self, config: Config, seconds: float | None) -> None:
        """Tell the result of an earlier run; None: it failed."""
        if self.space.broken(config) is None:
            self._take(config)
            self._note(config, seconds)
            if self.sampler not in WITHOUT_STUDY:
                self._study.add_trial(self._finished(config, seconds))

    def ask(self) -> Config | None:
        """The next configuration to try; None once every one has been proposed."""
        while self._first:
            config = self._first.pop(0)
            if self._is_new(config):
                if self.sampler not in WITHOUT_STUDY:  # samplers that model times ought to know what is under way
                    self._study.enqueue_trial(dict(config))
                    self._open[config] = self._study.ask(self._distributions)
                return self._take(config)
        if self._left is not None and not self._left:
            return None
        if self.sampler == "exhaustive":
            found = next((c for c in self._order if c not in self._seen), None)
        else:
            found = self._step() or (self._draw() if self.sampler == "walk" else self._proposal())
        return None if found is None else self._take(found)

    def _is_new(self, config: Config) -> bool:
        if self._left is not None:
            return config in self._left
        return config not in self._seen and self.space.broken(config) is None

    def _take(self, config: Config) -> Config:
        self._seen.add(config)
        if self._left is not None:
            self._left.pop(config, None)
        return config

    def tell(self, config: Config, seconds: float | None) -> None:
        """What `ask` proposed took this long, in seconds; None: it failed to compile, was wrong, crashed or hung."""
        self._note(config, seconds)
        if self.sampler in WITHOUT_STUDY:
            return
        trial = self._open.pop(config, None)
        if trial is None:
            self._study.add_trial(self._finished(config, seconds))
        elif seconds is None:
            self._study.tell(trial, state=TrialState.PRUNED)  # TPE ranks it last; it would ignore a FAIL
        else:
            self._study.tell(trial, seconds)

    def _note(self, config: Config, seconds: float | None) -> None:
        if seconds is not None:
            self._times[config] = seconds

    def _step(self) -> Config | None:
        """A new one near the best, for samplers that go from there; None if there is none, or it is time to draw."""
        if self.sampler == "walk":
            return self._walk()
        if self.sampler != "climb" or not self._times or self._random.random() < 1 / 3:
            return None
        for best in sorted(self._times, key=self._times.__getitem__)[:2]:
            near = [c for c in neighbours(self.space, best) if self._is_new(c)]
            if near:
                return self._random.choice(near)
        return None

    def _walk(self) -> Config | None:
        """Mostly one step from the best, or from the default while nothing is known; one time of four two steps; one
        time of ten a mixture of two of the best; one of twenty none."""
        dice, ranked = self._random.random(), sorted(self._times, key=self._times.__getitem__)
        if len(ranked) >= FEW_KNOWN and dice < 0.15:
            return self._mixture(ranked[:8]) if dice < 0.1 else None
        few = ranked[:4] or [self.space.default]
        if self._random.random() < 0.25:  # not always the very best
            self._random.shuffle(few)
        for best in few:
            near = [c for c in neighbours(self.space, best) if self._is_new(c)]
            if near and dice < 0.75:
                return self._random.choice(near)
            found = self._two_steps(best)
            if found or near:
                return found or self._random.choice(near)
        return None

    def _two_steps(self, best: Config) -> Config | None:
        """Another place in the lists of two parameters, at most two away."""
        for _ in range(_TRIES):
            values = dict(best)
            for p in self._random.sample(self.space.parameters, min(2, len(self.space.parameters))):
                at = p.values.index(best[p.name]) + self._random.choice((-2, -1, -1, 1, 1, 2))
                values[p.name] = p.values[min(max(at, 0), len(p.values) - 1)]
            if self._is_new(found := Config(values)):
                return found
        return None

    def _mixture(self, best: list[Config]) -> Config | None:
        for _ in range(_TRIES):
            one, other = (self._random.choice(best) for _ in range(2))
            mixed = Config({name: self._random.choice((one, other))[name] for name in one})
            if self._is_new(mixed):
                return mixed
        return None

    def _draw(self) -> Config | None:
        """Any new one, each as likely as the others."""
        if self._left is not None:
            return self._random.choice(list(self._left)) if self._left else None
        for _ in range(_DRAWS):
            config = Config({p.name: self._random.choice(p.values) for p in self.space.parameters})
            if self._is_new(config):
                return config
        return None

    def _proposal(self) -> Config | None:
        for _ in range(_TRIES):
            trial = self._study.ask(self._distributions)
            config = Config(trial.params)
            if self._is_new(config):
                self._open[config] = trial
                return config
            # A repeat says nothing about its place; breaking a constraint does.
            repeat = self.space.broken(config) is None
            self._study.tell(trial, state=TrialState.FAIL if repeat else TrialState.PRUNED)
        if self._left is None:
            return self._draw()
        # The sampler keeps returning to what it knows: take the untried configuration that differs least from it.
        return min(self._left, key=lambda c: sum(c[name] != config[name] for name in config))

    def _optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.sampler == "pool" and self._left:
            return PoolSampler(list(self._left), seed, self._distributions)
        if self.sampler in ("climb", "tpe"):
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _finished(self, config: Config, seconds: float | None):
        state = TrialState.PRUNED if seconds is None else TrialState.COMPLETE
        return create_trial(params=dict(config), distributions=self._distributions, value=seconds, state=state)


def grid_size(space: Space) -> int:
    """How many configurations there would be without constraints."""
    return math.prod(len(p.values) for p in space.parameters)


def _every(space: Space) -> Iterator[Config]:
    names = [p.name for p in space.parameters]
    for values in itertools.product(*(p.values for p in space.parameters)):
        point = dict(zip(names, values, strict=True))
        if all(c.holds(point) for c in space.constraints):
            yield Config(point)


def neighbours(space: Space, config: Config) -> Iterator[Config]:
    """Every valid configuration that differs in one parameter by one place in its list of values."""
    for p in space.parameters:
        at = p.values.index(config[p.name])
        for value in p.values[max(0, at - 1) : at] + p.values[at + 1 : at + 2]:
            found = Config({**config, p.name: value})
            if space.broken(found) is None:
                yield found
