"""Tuning each problem alone: search its space, prove and time candidates, rematch the leaders, record the winner.

Every trial is in the database before the next one starts, so a search that is stopped anywhere goes on from there.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from autotune import judging, place
from autotune.measure.crew import NEXT, NOW, Answer, Crew
from autotune.measure.process import WorkerDied, WorkerTimedOut
from autotune.place import Place
from autotune.search.study import Search
from autotune.versions import versions
from kernel_templates import registry
from kernel_templates.operation import Work
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

SAMPLES = 7
LEADERS = 4
REMATCH_ROUNDS = 15
REMATCH_SHARE, REMATCH_S = 0.15, 1.5  # of a problem's budget, and at most, kept for the rematch
LEAD_SHARE, LEAD_S = 0.3, 2.0  # before that, so long: what starts compiling would come too late, so the next ones' do
QUEUED = 3  # jobs that wait for a compiler: more were proposed knowing less
FIXED_S = 0.5  # that a problem takes beside its share: opening
GRACE_S = 20.0  # that a problem gets beyond its budget while nothing has worked yet
TuneError = judging.TuneError


@dataclass(frozen=True)
class Progress:
    """Where a tuning run is, after each trial. Times in nanoseconds; stage 1: problems alone, 2: in context."""

    problem: Problem
    index: int
    of: int
    trial: int
    trials: int | None
    best_ns: float | None
    default_ns: float | None
    outcome: Outcome
    stage: int = 1


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
    where: Place | None = None,
    crew: Crew | None = None,
    after: Callable[[], None] = lambda: None,
) -> list[Tuned]:
    """Tune each problem for `where`, this machine's processor if None; `problems` says how often a token runs each.

    trials: proposals per problem, earlier runs' included; budget_s: seconds for all problems together; None: no limit.
    crew: workers that are there already; after: called before the end, when they would otherwise idle.
    KeyboardInterrupt passes through after the problem at hand got its winner from what is known so far. TuneError: no
    configuration of a problem works, or the rematch of those that did fails.
    """
    where = where or place.cpu()
    if crew is None:
        with Crew(where.compilers, where.apart, where.program) as own:
            judging.draw_ahead(in_order(problems), where, own, seed)
            return tune(
                problems, db, trials=trials, budget_s=budget_s, sampler=sampler, seed=seed, report=report,
                where=where, crew=own, after=after,
            )  # fmt: skip
    db.remember_device(where.device)
    end = None if budget_s is None else time.monotonic() + budget_s
    order = in_order(problems)
    weights = _weights({p: problems[p] for p in order})
    results: list[Tuned] = []
    searches = [
        _ProblemSearch(p, where, db, crew, sampler, seed, (index, len(problems)), report, trials, results)
        for index, p in enumerate(order)
    ]
    for index, search in enumerate(searches):

        def until(index: int = index) -> float | None:
            """A share of what is left, so that a quick problem leaves its time to the others."""
            if end is None:
                return None
            left, later = max(0.0, end - time.monotonic()), len(searches) - index - 1
            left = max(left / 2, left - FIXED_S * later)
            return time.monotonic() + left * weights[index] / sum(weights[index:])

        following: list[Callable[[int], int]] = []
        if where.apart:
            following = [later.ahead for later in searches[index + 1 :]] or [_once(after)]
        results.append(search.run(problems[search.problem], until, following))
    return sorted(results, key=lambda result: list(problems).index(result.problem))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Small ones first: their trials are quick, and what they find is tried first on the large ones."""
    return sorted(problems, key=_bytes)


def _bytes(problem: Problem) -> int:
    return registry.get(problem.op).work(problem).bytes


def _weights(problems: Mapping[Problem, int]) -> list[float]:
    """How much time each deserves. What moves more bytes in a token deserves more, but not in proportion: little
    problems add up. Those that differ in their context only are never in one token. Nothing gets less than a fair bit.
    """

    def alike(problem: Problem) -> Problem:
        return replace(problem, context=0) if any(f.name == "context" for f in fields(problem)) else problem  # type: ignore[call-arg]

    kinds = [alike(p) for p in problems]
    weights = [math.sqrt(_bytes(p) * n) / kinds.count(k) for (p, n), k in zip(problems.items(), kinds, strict=True)]
    return [max(w, 0.5 * sum(weights) / len(weights)) for w in weights]


def _once(call: Callable[[], None]) -> Callable[[int], int]:
    """As a `_ProblemSearch.ahead` that takes nothing."""
    calls = [call]

    def ahead(room: int) -> int:
        if calls and room:
            calls.pop()()
        return room

    return ahead


class _ProblemSearch:
    """One problem's search: its space, its study, its run in the database."""

    def __init__(
        self, problem, where: Place, db: TuningDB, crew: Crew, sampler: str, seed: int, index, report,
        trials: int | None, results: Sequence[Tuned],
    ):  # fmt: skip
        """results: those of the problems before this one, as they come."""
        self.problem, self.where, self.device, self.db, self.crew = problem, where, where.device, db, crew
        self.index, self.report, self.trials, self.results = index, report, trials, results
        self.bench = judging.Judge(problem, where, crew, seed)
        self.operation = registry.get(problem.op)
        self.space: Space = where.space(problem)
        self.work: Work = self.operation.work(problem)
        self.past = db.past_trials(self.device, problem.key, problem.template_version)
        self.search = Search(self.space, sampler, seed)
        self.tried: dict[Config, Trial] = {}
        for trial in self.past:
            config = Config(trial.config)
            if self.space.broken(config) is None:
                self._remember(config, trial)
                self.search.replay(config, _seconds(trial))
        self.sampler, self.seed, self.hinted = sampler, seed, -1
        self.run_id = -1  # until it begins

    def run(
        self, count: int, until: Callable[[], float | None], following: Sequence[Callable[[int], int]] = ()
    ) -> Tuned:
        """Search until `trials` proposals are known or the clock says what `until` gives once inputs are there, then
        decide. following: what else may be compiled when little time is left, each given how many jobs there is room
        for and returning what it leaves."""
        size = judging.space_size(self.search.size)
        run = Run(
            self.problem.key, self.problem.template_version, self.sampler, self.seed, size, self.work.bytes,
            self.work.ops, versions(),
        )  # fmt: skip
        self.run_id = self.db.begin_run(self.device, run)
        status, before = "finished", len(self.tried)
        try:
            self._open()
            begun, end = time.monotonic(), until()
            stop = None if end is None else end - min(REMATCH_S, REMATCH_SHARE * (end - begun))
            last = None if stop is None else stop - min(LEAD_S, LEAD_SHARE * (stop - begun))
            if self._search(stop, last, following):
                status = "budget"
            self.bench.close()  # what is still compiling, nobody waits for
            self._look_ahead(following)
            tuned = self._decide(count, "searched" if len(self.tried) > before else "known")
            self.bench.forget()
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

    def ahead(self, room: int) -> int:
        """Before its turn has come: have up to `room` candidates compiled, no more than all compilers can do at once.
        Returns how many jobs there is room for still."""
        most = len(self.crew.compilers) - self.bench.compiling
        for done in range(room):
            if done >= most:
                return room - done
            config = self._next()
            if config is None:
                return room - done
            self.bench.compile(config, rank=NEXT, base=self.space.default)
        return 0

    def _look_ahead(self, following: Sequence[Callable[[int], int]]) -> None:
        room = self.crew.room(QUEUED, NEXT)
        for ahead in following:
            room = ahead(room)
            if room <= 0:
                return

    def _open(self) -> None:
        if self.where.apart:
            self._propose(len(self.crew.compilers))  # compiles while the measurer starts, or reads the inputs
            self.bench.await_drawing()
        self.bench.open()

    def _search(self, stop: float | None, last: float | None, following: Sequence[Callable[[int], int]]) -> bool:
        """Propose, compile and try until `trials` are known, nothing is left, or it is `stop`: True. From `last` on
        nothing more is proposed."""
        while True:
            if self._is_over(stop):
                return True
            if self.where.apart or not self.bench.compiling:
                if last is None or time.monotonic() < last or not self.bench.compiling:
                    self._propose(QUEUED if self.where.apart else 0)
                self._look_ahead(following)
            if not self.bench.compiling:
                return False
            done = self.bench.compiled(1.0)
            while self.bench.compiling and not self.where.apart:
                done += self.bench.compiled(1.0)
            for number, (config, compiled) in enumerate(done):
                if number and self.where.apart and self._is_over(stop):
                    break
                self._try(config, compiled)
                if self.where.apart and (last is None or time.monotonic() < last):
                    self._propose(QUEUED)

    def _is_over(self, stop: float | None) -> bool:
        now = time.monotonic()
        return stop is not None and (now >= stop + GRACE_S or (now >= stop and self._best() is not None))

    def _propose(self, queued: int) -> None:
        """Have every worker that is free compile what the search asks for, and `queued` more wait for the next one."""
        for _ in range(self.crew.room(queued)):
            config = self._next()
            if config is None:
                return
            self.bench.compile(config, rank=NOW, base=self.space.default)

    def _next(self) -> Config | None:
        if self.trials is not None and len(self.tried) + self.bench.compiling >= self.trials:
            return None
        if self.hinted < len(self.results):  # others have won since
            self.search.suggest(self._hints([result.config for result in self.results]))
            self.hinted = len(self.results)
        return self.search.ask()

    def _hints(self, winners: Sequence[Config]) -> list[Config]:
        """What won for a problem like this one on this chip, and what other operations' winners of this run have in
        common with it: parameters of one name mean the same everywhere ("down_lanes" is a kind of "lanes")."""
        answer = self.db.lookup(self.device, self.problem.key, self.problem.template_version)
        hints = [Config(answer.winner.config)] if answer.winner else []
        for winner in reversed(winners):
            shared = {n: winner.get(n, winner.get(n.rpartition("_")[2], v)) for n, v in self.space.default.items()}
            hints.append(Config(shared))
        return hints

    def _try(self, config: Config, compiled: Answer) -> None:
        """Verify and time what was compiled, and record what became of it."""
        trial = self.bench.trial(config, compiled, lambda: self.bench.ask("measure", dict(config), SAMPLES))
        self.db.record_trial(self.run_id, trial)
        self._remember(config, trial)
        self.search.tell(config, _seconds(trial))
        best, default = self._best(), self.tried.get(self.space.default)
        self.report(
            Progress(
                self.problem, self.index[0], self.index[1], len(self.tried), self.trials, best[0] if best else None,
                default.measurement.median_ns if default and default.measurement else None, trial.outcome,
            )
        )  # fmt: skip

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
        measurements, errors, rate = self.bench.rematch(entries, REMATCH_ROUNDS)
        by_config: dict[Config, tuple[Measurement, float]] = dict(
            zip(entries, zip(measurements, errors, strict=True), strict=True)
        )
        for config, (measurement, error) in by_config.items():
            trial = Trial(dict(config), Outcome.OK, measurement, None, error, self.bench.tolerance, "rematch")
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
            self.bench.tolerance,
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
