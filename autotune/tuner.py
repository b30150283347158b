"""Tuning: for each problem, search its space, prove and time candidates, rematch the leaders, record the winner.

Every trial is in the database before the next one starts, so a search that is stopped anywhere goes on from there.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.measure.process import Worker, WorkerDied, WorkerTimedOut, ask_all
from autotune.search.study import Search
from autotune.versions import versions
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.device import Device
from kernel_templates.operation import Work
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

COMPILE_TIMEOUT_S = 60.0
MEASURE_TIMEOUT_S = 60.0
OPEN_TIMEOUT_S = 120.0
SAMPLES = 7
LEADERS = 4
REMATCH_ROUNDS = 15
REMATCH_SHARE = 0.15  # of a problem's budget, kept for the rematch


class TuneError(Exception):
    """A problem could not be tuned; the message is one line that says which and why."""


@dataclass(frozen=True)
class Progress:
    """Where a tuning run is, after each trial. Times in nanoseconds."""

    problem: Problem
    index: int
    of: int
    trial: int
    trials: int | None
    best_ns: float | None
    default_ns: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Tuned:
    """What came out for one problem. Rates in 10^9 bytes a second over the bytes the problem must move; `share`: of
    what the machine read at the same moment; `source`: "searched", or "known" when earlier runs had tried enough."""

    problem: Problem
    count: int
    config: Config
    default_ns: float
    best_ns: float
    gb_s: float
    default_gb_s: float
    share: float
    trials: int
    failed: int
    source: str


def tune(
    problems: Mapping[Problem, int],
    db: TuningDB,
    *,
    trials: int | None = 40,
    budget_s: float | None = 75.0,
    sampler: str = "climb",
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Tuned]:
    """Tune each problem for this machine's processor; `problems` says how often a token runs each.

    trials: proposals per problem, earlier runs' included; budget_s: seconds for all problems together; None: no limit.
    KeyboardInterrupt passes through after the problem at hand got its winner from what is known so far. TuneError: no
    configuration of a problem works, or the rematch of those that did fails.
    """
    device = machine.detect()
    db.remember_device(device)
    end = None if budget_s is None else time.monotonic() + budget_s
    # What moves more bytes in a token deserves more of the time, but not in proportion: little problems add up.
    # Small ones first: their trials are quick, and what they find is tried first on the large ones.
    work = {p: registry.get(p.op).work(p).bytes for p in problems}
    order = sorted(problems, key=lambda p: work[p])
    weights = [math.sqrt(work[p] * problems[p]) for p in order]
    workers = [Worker() for _ in range(max(2, min(device.units, 8)))]
    results: list[Tuned] = []
    try:
        for worker in workers:
            worker.start()
        for index, problem in enumerate(order):
            until = None
            if end is not None:  # a share of what is left, so that a quick problem leaves its time to the others
                share = weights[index] / sum(weights[index:])
                until = time.monotonic() + max(0.0, end - time.monotonic()) * share
            hints = [result.config for result in results]
            search = _ProblemSearch(problem, device, db, workers, sampler, seed, (index, len(problems)), report, hints)
            results.append(search.run(problems[problem], trials, until))
    finally:
        for worker in workers:
            worker.stop()
    return sorted(results, key=lambda result: list(problems).index(result.problem))


class _ProblemSearch:
    """One problem's search: its space, its study, its run in the database."""

    def __init__(
        self, problem, device: Device, db: TuningDB, workers, sampler: str, seed: int, place, report,
        hints: Sequence[Config] = (),
    ):  # fmt: skip
        self.problem, self.device, self.db, self.workers = problem, device, db, workers
        self.place, self.report, self.seed = place, report, seed
        self.operation = registry.get(problem.op)
        self.space: Space = self.operation.cpu_space(problem, machine.features())
        self.work: Work = self.operation.work(problem)
        self.past = db.past_trials(device, problem.key, problem.template_version)
        self.search = Search(self.space, sampler, seed, self._hints(hints))
        self.tried: dict[Config, Trial] = {}
        for trial in self.past:
            config = Config(trial.config)
            if self.space.broken(config) is None:
                self._remember(config, trial)
                self.search.replay(config, _seconds(trial))
        self.run_id = db.begin_run(
            device,
            Run(
                problem.key, problem.template_version, sampler, seed, len(self.space.configs()),
                self.work.bytes, self.work.ops, versions(),
            ),
        )  # fmt: skip

    def run(self, count: int, trials: int | None, until: float | None) -> Tuned:
        """Search until `trials` proposals are known or the clock says `until`, then decide."""
        begun = time.monotonic()
        stop = None if until is None else until - REMATCH_SHARE * (until - begun)
        status, before = "finished", len(self.tried)
        try:
            self._open()
            while trials is None or len(self.tried) < trials:
                if stop is not None and time.monotonic() >= stop and self._best() is not None:
                    status = "budget"
                    break
                room = len(self.workers) if trials is None else trials - len(self.tried)
                batch = [c for c in (self.search.ask() for _ in range(min(room, len(self.workers)))) if c is not None]
                if not batch:
                    break
                self._try(batch, trials)
            tuned = self._decide(count, "searched" if len(self.tried) > before else "known")
        except (WorkerDied, WorkerTimedOut) as gone:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise TuneError(f"{self.problem.key}: {gone}") from gone
        except BaseException:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise
        self.db.finish_run(self.run_id, status)
        return tuned

    def _hints(self, winners: Sequence[Config]) -> list[Config]:
        """What won for a problem like this one on this chip, and what other operations' winners of this run have in
        common with it: parameters of one name mean the same everywhere ("down_lanes" is a kind of "lanes")."""
        answer = self.db.lookup(self.device, self.problem.key, self.problem.template_version)
        hints = [Config(answer.winner.config)] if answer.winner else []
        for winner in reversed(winners):
            shared = {n: winner.get(n, winner.get(n.rpartition("_")[2], v)) for n, v in self.space.default.items()}
            hints.append(Config(shared))
        return hints

    def _open(self) -> None:
        reply = self.workers[0].request(
            "open", self.problem.key, self.seed, self.device.units, timeout_s=OPEN_TIMEOUT_S
        )
        if reply[0] != "opened":
            raise TuneError(f"{self.problem.key}: {reply[1]}")
        self.tolerance = reply[1]

    def _try(self, batch: list[Config], trials: int | None) -> None:
        """Compile a batch side by side, then verify and time one after the other."""
        requests = [("compile", self.problem.key, dict(config)) for config in batch]
        for config, compiled in zip(batch, ask_all(self.workers, requests, COMPILE_TIMEOUT_S), strict=True):
            trial = self._judge(config, compiled)
            self.db.record_trial(self.run_id, trial)
            self._remember(config, trial)
            self.search.tell(config, _seconds(trial))
            best, default = self._best(), self.tried.get(self.space.default)
            self.report(
                Progress(
                    self.problem, self.place[0], self.place[1], len(self.tried), trials, best[0] if best else None,
                    default.measurement.median_ns if default and default.measurement else None, trial.outcome,
                )
            )  # fmt: skip

    def _judge(self, config: Config, compiled: tuple | Exception) -> Trial:
        if isinstance(compiled, WorkerTimedOut):
            return Trial(dict(config), Outcome.TIMED_OUT, message=f"compiling: {compiled}")
        if isinstance(compiled, Exception):
            return Trial(dict(config), Outcome.CRASHED, message=f"compiling: {compiled}")
        if compiled[0] != "compiled":
            return Trial(dict(config), Outcome.FAILED_TO_COMPILE, message=compiled[1])
        spent = compiled[1]
        try:
            self._open()  # a worker that replaced a dead one has to be told the problem again
            reply = self.workers[0].request("measure", dict(config), SAMPLES, timeout_s=MEASURE_TIMEOUT_S)
        except WorkerTimedOut as late:
            return Trial(dict(config), Outcome.TIMED_OUT, compile_s=spent, message=str(late))
        except WorkerDied as death:
            return Trial(dict(config), Outcome.CRASHED, compile_s=spent, message=str(death))
        if reply[0] == "ok":
            return Trial(dict(config), Outcome.OK, reply[1], spent, reply[2], self.tolerance)
        if reply[0] == "wrong":
            return Trial(dict(config), Outcome.WRONG, None, spent, reply[2], self.tolerance, reply[1])
        return Trial(dict(config), Outcome.CRASHED, compile_s=spent, message=reply[1])

    def _remember(self, config: Config, trial: Trial) -> None:
        known = self.tried.get(config)
        if known is None or known.measurement is None or trial.measurement is not None:
            self.tried[config] = trial

    def _ranked(self) -> list[tuple[float, Config]]:
        timed = [(t.measurement.median_ns, c) for c, t in self.tried.items() if t.measurement is not None]
        return sorted(timed, key=lambda pair: pair[0])

    def _best(self) -> tuple[float, Config] | None:
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def _decide(self, count: int, source: str) -> Tuned:
        """Rematch the leaders and the default in one go; the fastest median wins and is recorded."""
        leaders = [c for _, c in self._ranked()[:LEADERS]]
        if not leaders:
            raise TuneError(f"{self.problem.key}: no configuration worked; autotune db list --runs shows why")
        default = self.space.default
        entries = leaders if default in leaders or self._failed(default) else [*leaders, default]
        self._open()
        reply = self.workers[0].request(
            "rematch", [dict(c) for c in entries], REMATCH_ROUNDS, timeout_s=MEASURE_TIMEOUT_S
        )
        if reply[0] != "rematch":
            raise TuneError(f"{self.problem.key}: the rematch failed: {reply[1]}")
        _, measurements, errors, rate = reply
        by_config: dict[Config, tuple[Measurement, float]] = dict(
            zip(entries, zip(measurements, errors, strict=True), strict=True)
        )
        for config, (measurement, error) in by_config.items():
            trial = Trial(dict(config), Outcome.OK, measurement, None, error, self.tolerance, "rematch")
            trial_id = self.db.record_trial(self.run_id, trial)
            if config == min(by_config, key=lambda c: by_config[c][0].median_ns):
                won, won_id = config, trial_id
        best = by_config[won][0]
        default_ns = by_config[default][0].median_ns if default in by_config else math.nan
        winner = Winner(
            self.problem.key,
            self.problem.template_version,
            dict(won),
            best,
            default_ns,
            by_config[won][1],
            self.tolerance,
        )
        self.db.set_winner(self.device, winner, self.run_id, won_id)
        gb_s, default_gb_s = self.work.bytes / best.median_ns, self.work.bytes / default_ns
        failed = sum(t.measurement is None for t in self.tried.values())
        return Tuned(
            self.problem, count, won, default_ns, best.median_ns, gb_s, default_gb_s, gb_s * 1e9 / rate,
            len(self.tried), failed, source,
        )  # fmt: skip

    def _failed(self, config: Config) -> bool:
        return config in self.tried and self.tried[config].measurement is None

    def _keep_best_so_far(self) -> None:
        """An interrupted search still leaves its best verified candidate, if no winner is known."""
        best = self._best()
        known = self.db.lookup(self.device, self.problem.key, self.problem.template_version)
        if best is None or (known.winner and known.winner.problem == self.problem.key):
            return
        trial, default = self.tried[best[1]], self.tried.get(self.space.default)
        assert trial.measurement is not None and trial.error is not None and trial.tolerance is not None
        default_ns = default.measurement.median_ns if default and default.measurement else None
        winner = Winner(
            self.problem.key, self.problem.template_version, dict(best[1]), trial.measurement, default_ns,
            trial.error, trial.tolerance,
        )  # fmt: skip
        self.db.set_winner(self.device, winner, self.run_id, None)


def _seconds(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.median_ns * 1e-9
