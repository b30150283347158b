"""Tuning in context: which configurations are fastest in the captured layer, chained as the decoder chains them.

What wins alone need not win between its neighbours (docs/log.md). A Layer is a problem whose parameters are its parts'
with a prefix: "ffn_rows". Starting from the parts' own winners, one part after the other is changed: by single steps
from the best known, then to what did best alone. A change is kept when it is faster in samples taken in turn.
"""

import time
from collections.abc import Callable, Sequence

from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import candidate_runner
from autotune.tuning.layer_tuner import LayerSearch, TunedLayer
from autotune.tuning.problem_tuner import Progress
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from tuning_db import TuningDB

LEADERS = 0.7  # of the time, for the layers that others follow; the rest is for these others


def tune(
    layers: Sequence[Problem], db: TuningDB, where: TuneTarget, crew: WorkerPool, *, budget_s: float | None = None,
    seed: int = 0, report: Callable[[Progress], None] = lambda progress: None,
) -> list[TunedLayer]:  # fmt: skip
    """Tune each layer in context. Layers alike but for `context` follow the first: only their attention is searched.

    budget_s: seconds for all; None: until nothing improves. KeyboardInterrupt passes through; the layer at hand keeps
    the best so far as its winner. Raises TuneError when no configuration of a layer works.
    """
    end = None if budget_s is None else time.monotonic() + budget_s
    leaders: dict[Problem, Config] = {}
    groups = [layer.without_context for layer in layers]
    weights = _weights(groups)
    searches = [
        LayerSearch(layer, db, where, crew, seed, (index, len(layers)), report) for index, layer in enumerate(layers)
    ]
    results = []
    for index, (search, group) in enumerate(zip(searches, groups, strict=True)):
        until = None
        if end is not None:
            until = time.monotonic() + max(0.0, end - time.monotonic()) * weights[index] / sum(weights[index:])

        def after(best: Config, index: int = index) -> None:
            if index + 1 < len(searches):
                known = leaders | {groups[index]: best}
                candidate_runner.warm(
                    layers[index + 1], searches[index + 1].firsts(known.get(groups[index + 1])), where, crew
                )

        results.append(search.run(until, leaders.get(group), after))
        leaders.setdefault(group, results[-1].config)
    return results


def warm(layers: Sequence[Problem], db: TuningDB, where: TuneTarget, crew: WorkerPool, seed: int = 0) -> None:
    """Have compiled what the search of the first layer would begin with, as far as its parts are known by now."""
    for layer in layers[:1]:
        candidate_runner.warm(layer, LayerSearch(layer, db, where, crew, seed, (0, 1), None).firsts(None), where, crew)


def _weights(groups: Sequence[Problem]) -> list[float]:
    """Shares of the time: LEADERS for the first of each group together, the rest for those that follow."""
    first = [group not in groups[:i] for i, group in enumerate(groups)]
    return [LEADERS / sum(first) if leads else (1 - LEADERS) / (len(first) - sum(first)) for leads in first]
