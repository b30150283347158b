"""A search over one space: ask for a configuration, tell what became of it.

Optuna's samplers know no constraints: what they propose is taken to the nearest valid configuration that is new. Their
study lives in memory; the tuning database holds every trial, and earlier ones are told again when a search resumes.
"""

import importlib.util
import math
import random
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from autotune import UserError
from autotune.samplers import SAMPLERS
from autotune.samplers.candidates import candidates, neighbours
from autotune.samplers.gp_sampler import GaussianProcessSampler
from autotune.samplers.local_search import LocalSearch
from autotune.samplers.single_thread import single_thread
from kernel_templates.space import Config, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

LISTED = 50_000  # configurations, before constraints, up to which a space is listed; two large templates have millions
MODELLED = ("pool", "tpe", "gp", "cmaes")
RENEW = 20  # results until the candidates of a space that is not listed are chosen anew

__all__ = ["LISTED", "Search", "grid_size", "neighbours"]


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
        if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
            raise UserError("the sampler cmaes needs the package cmaes: ./scripts/setup_env cmaes")
        self.space, self.sampler, self._seed = space, sampler, seed
        self._places = {p.name: {value: at for at, value in enumerate(p.values)} for p in space.parameters}
        self._random = random.Random(seed)
        self._seen: set[Config] = set()
        self._times: dict[Config, float | None] = {}
        self._open: dict[Config, optuna.Trial] = {}
        self._unseen = iter(space.each() if configs is None else configs)
        begin = [] if configs is not None else [space.default]
        self._first = [c for c in (*begin, *first) if space.broken(c) is None]
        # Without the default, what won elsewhere would have nothing to balance it where it misleads.
        self._near = LocalSearch(space, seed) if sampler == "pool" and configs is None else None
        self._listed = configs is not None or grid_size(space) <= LISTED
        self._list(configs if configs is not None else space.configs() if self._listed else ())
        self.size = len(self._left) if self._listed else grid_size(space)
        self._renew_at = 0
        self._distributions = self._distribution_of_each()
        self._study = optuna.create_study(sampler=self._optuna_sampler())

    def suggest(self, configs: Iterable[Config]) -> None:
        """Propose these next, those that are valid and new: what won for another shape or on another chip. Each that
        is worse than hoped for costs one evaluation: the sampler takes its time like any other."""
        self._first += [c for c in configs if self.space.broken(c) is None]

    def replay(self, config: Config, seconds: float | None) -> None:
        """Tell the result of an earlier run; None: it failed."""
        if self.space.broken(config) is None:
            self._take(config)
            self._note(config, seconds)

    @single_thread()
    def ask(self) -> Config | None:
        """The next configuration to try; None once every one has been proposed."""
        while self._first:
            config = self._first.pop(0)
            if self._near is not None:
                self._near.begin(config)
            if self._is_new(config):
                return self._enqueued(config)
        step = None if self._near is None else self._near.next(self._is_new)
        if step is not None:
            return self._enqueued(step)
        if self.sampler == "exhaustive":
            found = next((c for c in self._unseen if c not in self._seen), None)
            return None if found is None else self._take(found)
        if not self._listed and (not self._left or len(self._times) >= self._renew_at):
            self._renew()
        if not self._left:
            return None
        return self._take(self._random.choice(list(self._left)) if self.sampler == "random" else self._proposal())

    def tell(self, config: Config, seconds: float | None) -> None:
        """What `ask` proposed took this long, in seconds; None: it failed to compile, was wrong, crashed or hung."""
        self._note(config, seconds)

    def _enqueued(self, config: Config) -> Config:
        """One that was not the sampler's choice; samplers that model times ought to know what is under way."""
        if self.sampler in MODELLED:
            self._study.enqueue_trial(self._params(config))
            self._open[config] = self._study.ask(self._distributions)
        return self._take(config)

    def _is_new(self, config: Config) -> bool:
        return config in self._left if self._listed else config not in self._seen

    def _take(self, config: Config) -> Config:
        self._seen.add(config)
        self._left.pop(config, None)
        return config

    def _list(self, configs: Iterable[Config]) -> None:
        """These are the ones to choose from, apart from those proposed already."""
        self._left = {c: None for c in configs if c not in self._seen}
        self._rows = {config: row for row, config in enumerate(self._left)}
        self._points = np.array([self._place(config) for config in self._left], np.int64)

    def _renew(self) -> None:
        """Other candidates of a space that is not listed: any, and those near the best."""
        self._renew_at = len(self._times) + RENEW
        works = {c: seconds for c, seconds in self._times.items() if seconds is not None}
        best = sorted(works, key=works.__getitem__)
        self._list(candidates(self.space, best, self._random))
        if not self._left:  # nearly everything has been proposed
            self._list(islice((c for c in self._unseen if c not in self._seen), RENEW))
        if self.sampler == "pool" and self._left:
            self._study.sampler = self._optuna_sampler()

    def _proposal(self) -> Config:
        if self._near is not None and isinstance(self._study.sampler, GaussianProcessSampler):
            self._study.sampler.among = self._near.region
        trial = self._study.ask(self._distributions)
        if self.sampler == "pool":
            config = Config(trial.params)
            self._open[config] = trial
            return config
        wanted = [trial.params.get(p.name, 0) for p in self.space.parameters]
        config = self._nearest(wanted)
        if self._place(config) == wanted or self.sampler == "cmaes":  # which learns from nothing but its own proposals
            self._open[config] = trial
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        return config

    def _nearest(self, wanted: Sequence[int]) -> Config:
        """Of those left, the one whose parameters are the fewest places away."""
        left = list(self._left)
        away = np.abs(self._points[[self._rows[config] for config in left]] - np.array(wanted)) / self._widths()
        return left[int(away.sum(1).argmin())]

    def _widths(self) -> np.ndarray:
        return np.array([max(len(p.values) - 1, 1) for p in self.space.parameters])

    def _place(self, config: Config) -> list[int]:
        """Where its values stand in their lists."""
        return [self._places[p.name][config[p.name]] for p in self.space.parameters]

    def _note(self, config: Config, seconds: float | None) -> None:
        known = [time for time in self._times.values() if time is not None]
        self._times[config] = seconds
        if self._near is not None:
            self._near.told(config, seconds)
        if self.sampler not in MODELLED:
            return
        state, value = TrialState.COMPLETE, seconds
        if seconds is None and self.sampler in ("gp", "cmaes") and known:  # they would not learn from a failure
            value = max(known)
        elif seconds is None:
            state = TrialState.PRUNED  # which TPE ranks last; it would ignore a FAIL
        trial = self._open.pop(config, None)
        if trial is None:
            distributions = self._distributions
            params = self._params(config)
            made = create_trial(params=params, distributions=distributions, value=value, state=state)
            self._study.add_trial(made)
        else:
            self._study.tell(trial, value, state)

    def _params(self, config: Config) -> dict:
        """As the study knows it: the values themselves, or for Optuna's samplers their places."""
        if self.sampler == "pool":
            return dict(config)
        return {name: self._places[name][config[name]] for name in self._distributions}

    def _distribution_of_each(self) -> dict[str, BaseDistribution]:
        if self.sampler == "pool":
            return {p.name: CategoricalDistribution(p.values) for p in self.space.parameters}
        return {p.name: IntDistribution(0, len(p.values) - 1) for p in self.space.parameters if len(p.values) > 1}

    def _optuna_sampler(self) -> optuna.samplers.BaseSampler:
        if self.sampler == "pool" and self._left:
            listed = [*self._left] if self._listed else [*self._seen_in_order(), *self._left]
            return GaussianProcessSampler(listed, self._seed, self._distributions)
        if self.sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=self._seed, n_startup_trials=6, multivariate=True, constant_liar=True
            )
        if self.sampler == "gp":
            return optuna.samplers.GPSampler(seed=self._seed, deterministic_objective=True)
        if self.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=self._seed, warn_independent_sampling=False)
        return optuna.samplers.RandomSampler(seed=self._seed)

    def _seen_in_order(self) -> list[Config]:
        """What has been proposed, those with a result first."""
        return [*self._times, *sorted((c for c in self._seen if c not in self._times), key=lambda c: c.key)]


def grid_size(space: Space) -> int:
    """How many configurations there would be without constraints."""
    return math.prod(len(p.values) for p in space.parameters)
