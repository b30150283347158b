"""Every configuration of a space, compiled on all cores and measured as the tuner measures, one after the other."""

import random
import time
from collections.abc import Callable, Mapping

from screening.recording import Recording, Row

from autotune.runner import device_lock
from autotune.runner.protocol import Inspect, Inspected
from autotune.runner.worker_pool import Answer, WorkerPool
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import CandidateRunner
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import SAMPLES
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db.records import Outcome

AHEAD = 6  # jobs that wait for a compiler
FASTEST, ROUNDS = 24, 15  # of each space, timed again in turn: the fastest of a thousand is also the luckiest


def measure(
    spaces: Mapping[Problem, Space],
    recordings: Mapping[Problem, Recording],
    target: TuneTarget,
    until: float,
    report: Callable[[str], None],
) -> bool:
    """Measure what the recordings lack; whether all was done by `until`, a time of `time.monotonic`."""
    todo = [(p, c) for p, space in spaces.items() for c in space.configs() if c not in recordings[p].rows]
    random.Random(0).shuffle(todo)  # whatever is cut short is a fair sample
    total = done = 0
    with (
        device_lock.measuring(target.identity, target.name, report),
        WorkerPool(target.compilers, target.separate_measurer, target.program, target=target.name) as worker_pool,
    ):
        candidate_runner.generate_inputs_ahead(spaces, target, worker_pool, 0)
        runners = {p: CandidateRunner(p, target, worker_pool, 0) for p in spaces}
        total, told = len(todo), time.monotonic()
        todo.reverse()
        while time.monotonic() < until and (todo or any(r.compiling for r in runners.values())):
            for _ in range(worker_pool.free_slots(AHEAD)):
                if todo:
                    problem, config = todo.pop()
                    request = Inspect(target.compile_target, problem.key, config)
                    worker_pool.submit(problem, config, request, target.compile_s)
            news = [(p, c, a) for p, r in runners.items() if r.inputs_are_ready for c, a in r.compiled(0.0)]
            for problem, config, answer in news:
                _attempt(runners[problem], recordings[problem], config, answer)
                done += 1
            if not news:
                worker_pool.wait(0.5)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                report(f"{done} of {total} configurations")
        complete = done == total
        for problem, runner in runners.items():
            runner.close()
            if complete:
                _compare_fastest(runner, recordings[problem])
    report(f"{done} of {total} configurations")
    return complete


def _attempt(runner: CandidateRunner, recording: Recording, config: Config, answer: Answer) -> None:
    trial = runner.trial(config, answer, lambda: runner.measure(config, SAMPLES))
    binaries = answer.binaries if isinstance(answer, Inspected) else ()
    m = trial.measurement
    row = Row(
        dict(config), trial.outcome.value, m and m.q10_ns, m and m.median_ns, m and m.q90_ns, m and m.samples,
        trial.error, trial.compile_s, trial.message,
    )  # fmt: skip
    recording.add(row, binaries)


def _compare_fastest(runner: CandidateRunner, recording: Recording) -> None:
    if any(row.rematch_ns for row in recording.rows.values()):
        return
    worked = [(row.median_ns, c) for c, row in recording.rows.items() if row.outcome == Outcome.OK]
    fastest = [c for _, c in sorted(worked, key=lambda pair: pair[0] or 0.0)[:FASTEST]]
    measurements = runner.compare_finalists(fastest, ROUNDS).measurements if fastest else ()
    for config, measured in zip(fastest, measurements, strict=True):
        recording.rematched(config, measured.median_ns)
