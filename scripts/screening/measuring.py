"""Every configuration of a space, compiled on all cores and measured as the tuner measures, one after the other."""

import random
import time
from collections.abc import Callable, Mapping

from screening.recording import Recording, Row

from autotune.runner import device_lock
from autotune.runner.worker_pool import Answer, WorkerPool
from autotune.screening.binary import Binary
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import CandidateRunner
from autotune.tuning.problem_tuner import SAMPLES
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db.records import Outcome

AHEAD = 6  # jobs that wait for a compiler
FASTEST, ROUNDS = 24, 15  # of each space, timed again in turn: the fastest of a thousand is also the luckiest


def measure(
    spaces: Mapping[Problem, Space],
    recordings: Mapping[Problem, Recording],
    where: TuneTarget,
    until: float,
    report: Callable[[str], None],
) -> bool:
    """Measure what the recordings lack; whether all was done by `until`, a time of `time.monotonic`."""
    todo = [(p, c) for p, space in spaces.items() for c in space.configs() if c not in recordings[p].rows]
    random.Random(0).shuffle(todo)  # whatever is cut short is a fair sample
    total = done = 0
    with (
        device_lock.measuring(where.identity, where.name, report),
        WorkerPool(where.compilers, where.apart, where.program, device=where.name) as crew,
    ):
        candidate_runner.draw_ahead(spaces, where, crew, 0)
        judges = {p: CandidateRunner(p, where, crew, 0) for p in spaces}
        total, told = len(todo), time.monotonic()
        todo.reverse()
        while time.monotonic() < until and (todo or any(j.compiling for j in judges.values())):
            for _ in range(crew.room(AHEAD)):
                if todo:
                    problem, config = todo.pop()
                    request = ("inspect", where.builds, problem.key, dict(config))
                    crew.submit(problem, config, request, where.compile_s)
            news = [(p, c, a) for p, j in judges.items() if j.drawn for c, a in j.compiled(0.0)]
            for problem, config, answer in news:
                _attempt(judges[problem], recordings[problem], config, answer)
                done += 1
            if not news:
                crew.wait(0.5)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                report(f"{done} of {total} configurations")
        complete = done == total
        for problem, judge in judges.items():
            judge.close()
            if complete:
                _rematch(judge, recordings[problem])
    report(f"{done} of {total} configurations")
    return complete


def _attempt(judge: CandidateRunner, recording: Recording, config: Config, answer: Answer) -> None:
    trial = judge.trial(config, answer, lambda: judge.ask("measure", dict(config), SAMPLES))
    binaries: tuple[Binary, ...] = ()
    if not isinstance(answer, Exception) and answer[0] == "compiled":
        binaries = tuple(answer[2])
    m = trial.measurement
    row = Row(
        dict(config), trial.outcome.value, m and m.q10_ns, m and m.median_ns, m and m.q90_ns, m and m.samples,
        trial.error, trial.compile_s, trial.message,
    )  # fmt: skip
    recording.add(row, binaries)


def _rematch(judge: CandidateRunner, recording: Recording) -> None:
    if any(row.rematch_ns for row in recording.rows.values()):
        return
    worked = [(row.median_ns, c) for c, row in recording.rows.items() if row.outcome == Outcome.OK]
    fastest = [c for _, c in sorted(worked, key=lambda pair: pair[0] or 0.0)[:FASTEST]]
    for config, measured in zip(fastest, judge.rematch(fastest, ROUNDS)[0] if fastest else (), strict=True):
        recording.rematched(config, measured.median_ns)
