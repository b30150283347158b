"""A search over one space as an Optuna study: ask for a configuration, tell what became of it.

The study lives in memory; the tuning database holds every trial, and earlier ones are told again when a search resumes.
"""

import random
from collections.abc import Iterable

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autotune.search import SAMPLERS
from kernel_templates.space import Config, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

_TRIES = 30  # Optuna knows no constraints between parameters: an invalid or repeated proposal is refused and redrawn


class Search:
    """Proposes configurations of a space, each valid and none twice, as an Optuna sampler directs."""

    def __init__(self, space: Space, sampler: str = "climb", seed: int = 0, first: Iterable[Config] = ()):
        """first: configurations to propose before the sampler is asked, the default ahead of them all."""
        if sampler not in SAMPLERS:
            raise ValueError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
        self.space, self.sampler = space, sampler
        self._left = dict.fromkeys(space.configs())
        self._first = [c for c in (space.default, *first) if space.broken(c) is None]
        self._study = optuna.create_study(sampler=_optuna_sampler(sampler, seed))
        self._distributions: dict[str, BaseDistribution] = {
            p.name: CategoricalDistribution(p.values) for p in space.parameters
        }
        self._open: dict[Config, optuna.Trial] = {}
        self._times: dict[Config, float] = {}
        self._random = random.Random(seed)

    def replay(self, config: Config, seconds: float | None) -> None:
        """Tell the result of an earlier run; None: it failed."""
        if self.space.broken(config) is None:
            self._left.pop(config, None)
            self._note(config, seconds)
            self._study.add_trial(self._finished(config, seconds))

    def ask(self) -> Config | None:
        """The next configuration to try; None once every one has been proposed."""
        while self._first:
            config = self._first.pop(0)
            if config in self._left:
                del self._left[config]
                return config
        if not self._left:
            return None
        config = next(iter(self._left)) if self.sampler == "exhaustive" else self._neighbour() or self._proposal()
        del self._left[config]
        return config

    def tell(self, config: Config, seconds: float | None) -> None:
        """What `ask` proposed took this long, in seconds; None: it failed to compile, was wrong, crashed or hung."""
        self._note(config, seconds)
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

    def _neighbour(self) -> Config | None:
        """For "climb", two times of three: an untried configuration one step in one parameter from one of the best."""
        if self.sampler != "climb" or not self._times or self._random.random() < 1 / 3:
            return None
        for best in sorted(self._times, key=self._times.__getitem__)[:2]:
            near = [c for c in self._left if _steps(self.space, best, c) == 1]
            if near:
                return self._random.choice(near)
        return None

    def _proposal(self) -> Config:
        for _ in range(_TRIES):
            trial = self._study.ask(self._distributions)
            config = Config(trial.params)
            if config in self._left:
                self._open[config] = trial
                return config
            # A repeat says nothing about its place; breaking a constraint does.
            repeat = self.space.broken(config) is None
            self._study.tell(trial, state=TrialState.FAIL if repeat else TrialState.PRUNED)
        # The sampler keeps returning to what it knows: take the untried configuration that differs least from it.
        return min(self._left, key=lambda c: sum(c[name] != config[name] for name in config))

    def _finished(self, config: Config, seconds: float | None):
        state = TrialState.PRUNED if seconds is None else TrialState.COMPLETE
        return create_trial(params=dict(config), distributions=self._distributions, value=seconds, state=state)


def _steps(space: Space, a: Config, b: Config) -> int:
    """How far apart two configurations are: places in the list of values, summed over the parameters."""
    return sum(abs(p.values.index(a[p.name]) - p.values.index(b[p.name])) for p in space.parameters)


def _optuna_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name in ("climb", "tpe"):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)
