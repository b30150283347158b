"""The last comparison of a search: its best, proved once more and timed in turn, whatever some of them do then."""

from collections.abc import Callable, Sequence
from functools import partial

from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.tuning.candidate_runner import CandidateRunner, TuneError
from kernel_templates.space import Config
from tuning_db.records import Measurement, Trial

ATTEMPTS = 3
SAMPLES = 7


def final(
    judge: CandidateRunner, configs: Sequence[Config], rounds: int, record: Callable[[Trial], object],
    may_win: Callable[[Config], bool] = lambda config: True,
) -> tuple[dict[Config, tuple[Measurement, float]], float]:  # fmt: skip
    """Measurement and error of each configuration that works, and bytes a second read meanwhile.

    When the comparison fails, each is tried by itself, what became of it goes to `record`, and what works goes on.
    Raises TuneError when that leaves none that may win, or it fails ATTEMPTS times."""
    entries = list(configs)
    why: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            measurements, errors, rate = judge.rematch(entries, rounds)
            return dict(zip(entries, zip(measurements, errors, strict=True), strict=True)), rate
        except (TuneError, WorkerDied, WorkerTimedOut) as failed:
            why = failed
        works = []
        for config in entries:
            measure = partial(judge.ask, "measure", dict(config), SAMPLES, *judge.where.energy)
            trial = judge.trial(config, ("compiled", None), measure)
            record(trial)
            if trial.measurement is not None:
                works.append(config)
        entries = works
        if not any(may_win(config) for config in entries):
            break
    raise TuneError(f"{judge.problem.key}: the last comparison failed: {why}") from why
