"""Tunes a model for a GPU: every problem of a token alone, then its layers in context, then the problems of passes over
many tokens, by one worker pool, within one budget."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from autotune.runner import device_lock
from autotune.runner.timeline import Timeline
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import candidate_runner, parallel, sequential
from autotune.tuning.layer_tuner import LayerTuner
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import Session, Tuned, TuneSettings
from kernel_templates.problem import Chain, Problem
from kernel_templates.space import Config
from tuning_db import TuningDB

BUDGET_S = 150.0
PASSES = 0.3  # of the budget, for passes over many tokens, where decoding is tuned too
ALONE = 0.4  # of a token's part of the budget, for problems alone
FIRST_OF_KIND = 0.7  # of the layers' time, for those that others follow; the rest is for these others


def tune(
    problems: Mapping[Problem, int], layers: Sequence[Chain], db: TuningDB, target: TuneTarget, settings: TuneSettings,
    timeline: Timeline | None = None, passes: Mapping[Problem, int] = MappingProxyType({}),
) -> tuple[list[Tuned], list[Tuned]]:  # fmt: skip
    """What came out for the problems alone, those of passes last, and for the layers; each may be empty. `problems`
    says how often a token runs each, `passes` how often a pass does. timeline: where the workers' jobs leave their
    spans.

    The budget includes the workers' start. Layers in context each worker of a shared study tunes for itself.
    KeyboardInterrupt passes through after the problems at hand got winners from what is known so far. Raises TuneError
    when no configuration of a problem works, or the comparison of those that did fails."""
    with device_lock.measuring(target.identity, target.name, settings.tell):
        begun = time.monotonic()

        def left(share: float) -> float | None:
            return None if settings.budget_s is None else max(0.0, begun + settings.budget_s * share - time.monotonic())

        pool = WorkerPool(target.compilers, target.separate_measurer, target.program, timeline, target.name)
        with pool as worker_pool:
            session = Session(target, db, worker_pool, settings)
            token = token_share(bool(problems or layers), bool(passes))
            everything = [*sequential.in_order(problems), *layers]
            candidate_runner.generate_inputs_ahead(everything, target, worker_pool, settings.seed)
            budget_s = left(token * ALONE if layers else token)
            alone = parallel.tune(problems, session, budget_s, after=partial(_warm, layers, session))
            # In the layers' stage compilers have time for them; before, they would only delay the first candidates.
            candidate_runner.generate_inputs_ahead(sequential.in_order(passes), target, worker_pool, settings.seed)
            in_layers = _tune_layers(layers, session, left(token))
            return alone + _tune_passes(passes, session, left(1.0)), in_layers


def token_share(token: bool, passes: bool) -> float:
    """The part of the budget for decoding, by whether there is something of it and of passes to tune."""
    return (1.0 - PASSES if passes else 1.0) if token else 0.0


def _tune_layers(layers: Sequence[Chain], session: Session, budget_s: float | None) -> list[Tuned]:
    """Tune each layer in context, in `budget_s` seconds; None: until nothing improves. Layers alike but for their
    context follow the first: only what depends on the context is searched."""
    end = None if budget_s is None else time.monotonic() + budget_s
    kinds = [layer.without_context for layer in layers]
    winners: dict[Problem, Config] = {}  # of the first layer of each kind
    weights = _weights(kinds)
    tuners = [LayerTuner(layer, session, (index, len(layers))) for index, layer in enumerate(layers)]
    for tuner, kind in zip(tuners, kinds, strict=True):
        first = tuners[kinds.index(kind)]
        if tuner is not first:  # whatever wins there, the kernels that depend on the context will be these
            firsts = tuner.firsts(first.isolated())
            candidate_runner.warm(tuner.problem, firsts, session.target, session.worker_pool, later=True)
    results = []
    for index, (tuner, kind) in enumerate(zip(tuners, kinds, strict=True)):
        until = None
        if end is not None:
            until = time.monotonic() + max(0.0, end - time.monotonic()) * weights[index] / sum(weights[index:])

        def after(best: Config, index: int = index) -> None:
            if index + 1 < len(tuners):
                known = winners | {kinds[index]: best}
                firsts = tuners[index + 1].firsts(known.get(kinds[index + 1]))
                candidate_runner.warm(layers[index + 1], firsts, session.target, session.worker_pool)

        results.append(tuner.run(until, winners.get(kind), after))
        winners.setdefault(kind, results[-1].config)
    for later in (False, True):
        candidate_runner.stop_warming(session.worker_pool, later)
    return results


def _tune_passes(passes: Mapping[Problem, int], session: Session, budget_s: float | None) -> list[Tuned]:
    """Problems of as many rows at once are tuned side by side, few rows first: the measurer has room for the inputs of
    one such group, and its winners are what the next one tries first. Each group gets the share of `budget_s` that its
    problems deserve, and what those before left."""
    end = None if budget_s is None else time.monotonic() + budget_s
    sizes = sorted({problem.rows_at_once for problem in passes})
    groups = [{p: n for p, n in passes.items() if p.rows_at_once == size} for size in sizes]
    share = sequential.weights(passes)
    deserved = [sum(share[p] for p in group) for group in groups]
    found: dict[Problem, Tuned] = {}
    for index, group in enumerate(groups):
        left = None if end is None else max(0.0, end - time.monotonic()) * deserved[index] / sum(deserved[index:])

        def after(following: Sequence[Problem] = tuple(groups[index + 1] if index + 1 < len(groups) else ())) -> None:
            for problem in following:
                default = session.target.space(problem).default
                candidate_runner.warm(problem, [default], session.target, session.worker_pool)

        found |= {tuned.problem: tuned for tuned in parallel.tune(group, session, left, after=after)}
    return [found[problem] for problem in passes if problem in found]


def _warm(layers: Sequence[Chain], session: Session) -> None:
    """Have compiled what the search of the first layer would begin with, as far as its parts are known by now."""
    for layer in layers[:1]:
        firsts = LayerTuner(layer, session, (0, 1)).firsts(None)
        candidate_runner.warm(layer, firsts, session.target, session.worker_pool)


def _weights(kinds: Sequence[Problem]) -> list[float]:
    """Shares of the time: FIRST_OF_KIND for the first of each kind together, the rest for those that follow."""
    first = [kind not in kinds[:i] for i, kind in enumerate(kinds)]
    own, others = FIRST_OF_KIND / max(1, sum(first)), (1 - FIRST_OF_KIND) / max(1, len(first) - sum(first))
    return [own if leads else others for leads in first]
