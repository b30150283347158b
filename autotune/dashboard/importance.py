"""Importance of parameters by two of Optuna's evaluators: they answer different questions, so both are shown by name.

fANOVA: which parameters explain the variance of the time over everything tried (Hutter et al., 2014). PED-ANOVA: which
parameters tell the best tenth from the rest (Watanabe et al., 2023).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from threadpoolctl import threadpool_limits

from kernel_templates.space import Value

LEAST = 8  # trials that worked: with fewer, a forest learns noise
TREES = 16


@dataclass(frozen=True)
class Slice:
    """Trials at one value of a parameter: their number, the best and the median time in nanoseconds."""

    value: Value
    count: int
    best_ns: float
    median_ns: float


@dataclass(frozen=True)
class Importance:
    """fanova, ped_anova: shares that add up to 1 by parameter; None where scikit-learn is not installed or too little
    is known. slices: by parameter."""

    trials: int
    fanova: Mapping[str, float] | None
    ped_anova: Mapping[str, float] | None
    slices: Mapping[str, tuple[Slice, ...]]


Trials = Sequence[tuple[Mapping[str, Value], float]]


def importance(trials: Trials) -> Importance:
    """trials: (configuration, nanoseconds) of those that worked; only parameters that all of them have count."""
    return _importance(tuple((tuple(sorted(config.items())), nanoseconds) for config, nanoseconds in trials))


@lru_cache(maxsize=1024)  # a live page is made again whenever one problem has a new trial
def _importance(known: tuple[tuple[tuple[tuple[str, Value], ...], float], ...]) -> Importance:
    trials = [(dict(config), nanoseconds) for config, nanoseconds in known]
    shared = set.intersection(*(set(config) for config, _ in trials)) if trials else set()
    values = {name: _in_order({config[name] for config, _ in trials}) for name in sorted(shared)}
    varied = {name: found for name, found in values.items() if len(found) > 1}
    slices = {name: _slices(name, found, trials) for name, found in varied.items()}
    if len(trials) < LEAST or not varied or len({ns for _, ns in trials}) < 2:
        return Importance(len(trials), None, None, slices)
    with threadpool_limits(1):  # hundreds of rows: a second thread would mostly wait
        return Importance(len(trials), *_evaluated(trials, varied), slices)


def _evaluated(
    trials: Trials, varied: Mapping[str, tuple[Value, ...]]
) -> tuple[Mapping[str, float] | None, Mapping[str, float] | None]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "experimental"
            kinds: dict[str, Any] = {
                name: optuna.distributions.CategoricalDistribution(found) for name, found in varied.items()
            }
            study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
            study.add_trials(
                optuna.trial.create_trial(
                    params={name: config[name] for name in varied}, distributions=kinds, value=nanoseconds
                )
                for config, nanoseconds in trials
            )
            ped_anova = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
            try:
                fanova = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=0))
            except ImportError:  # scikit-learn, of the extra "dashboard"
                return None, _plain(ped_anova)
    finally:
        optuna.logging.set_verbosity(before)
    return _plain(fanova), _plain(ped_anova)


def _plain(shares: Mapping[str, Any]) -> Mapping[str, float]:
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))}


def _slices(name: str, values: tuple[Value, ...], trials: Trials) -> tuple[Slice, ...]:
    found = []
    for value in values:
        times = sorted(ns for config, ns in trials if config[name] == value)
        middle = len(times) // 2
        median = times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2
        found.append(Slice(value, len(times), times[0], median))
    return tuple(found)


def _in_order(values: set[Value]) -> tuple[Value, ...]:
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))
