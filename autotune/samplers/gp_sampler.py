"""`GPSearch` as a sampler for Optuna: give it to a study, and every trial is one of the configurations listed."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.samplers.gp_search import GPSearch
from kernel_templates.space import Value


class GaussianProcessSampler(optuna.samplers.BaseSampler):
    """For studies that minimize one value over a list of configurations.

    All trials of the study are taken into account: enqueued ones, failures and running ones included.
    A configuration is never proposed twice; when none is left, the study is stopped and RuntimeError raised.
    """

    def __init__(
        self,
        configs: Sequence[Mapping[str, Value]],
        seed: int = 0,
        distributions: Mapping[str, BaseDistribution] | None = None,
    ):
        """configs: all of the same parameters; distributions: those that `Study.ask` will be given, if any."""
        if not configs:
            raise ValueError("a pool needs configurations")
        self._configs = [dict(config) for config in configs]
        self._names = list(self._configs[0])
        self._rows = {self._key(config): row for row, config in enumerate(self._configs)}
        columns = {name: dict.fromkeys(config[name] for config in self._configs) for name in self._names}
        self._space: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(tuple(values)) for name, values in columns.items()
        }
        self._space |= dict(distributions or {})
        self._pool = GPSearch([[config[name] for config in self._configs] for name in self._names], seed)
        self._told: set[int] = set()  # numbers of trials
        self.among: Sequence[Mapping[str, Value]] = ()
        """What the next one is chosen from, as long as any of these are left; anything if empty."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if study.direction != StudyDirection.MINIMIZE:
            raise ValueError("a pool is searched for the smallest value")
        self._learn(study, trial)
        enqueued = trial.system_attrs.get("fixed_params", {})
        if set(enqueued) >= set(self._names):
            if (known := self._rows.get(self._key(enqueued))) is not None:
                self._pool.skip(known)
            return {name: enqueued[name] for name in self._names}
        rows = [self._rows.get(self._key(config)) for config in self.among]
        row = self._pool.ask([row for row in rows if row is not None])
        if row is None:
            study.stop()
            raise RuntimeError("every configuration has been proposed")
        return dict(self._configs[row])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name!r} is no parameter of the configurations listed: {', '.join(self._names)}")

    def _learn(self, study: Study, trial: FrozenTrial) -> None:
        """What has happened to the study's trials since the last time."""
        for other in study.get_trials(deepcopy=False):
            row = self._rows.get(self._key(other.params)) if other.number != trial.number else None
            if row is None or other.number in self._told:
                continue
            if other.state == TrialState.RUNNING:
                self._pool.skip(row)
            elif other.state.is_finished():
                self._told.add(other.number)
                self._pool.tell(row, other.value if other.state == TrialState.COMPLETE else None)

    def _key(self, params: Mapping[str, Any]) -> tuple:
        return tuple(params.get(name) for name in self._names)
