"""One problem alone: its space, its sampler, its run in the database; proposals, trials, and the rematch at the end."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from autotune.runner.versions import versions
from autotune.runner.worker_pool import Answer, WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.samplers.shared_search import SharedSearch
from autotune.samplers.study import Search
from autotune.screening.binary import KernelResources
from autotune.screening.pruner import Pruner
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.final_comparison import final
from autotune.tuning.shared_studies import Studies, publish
from autotune.tuning.target import TuneTarget
from kernel_templates import registry
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Objective, Outcome, Run, Trial, TrialKind, Winner

SAMPLES = 7
LEADERS = 4
REMATCH_ROUNDS = 15
FROM_ELSEWHERE = 2  # of other workers' leaders that meet this one's
RELATIVES = 4  # winners of other shapes and chips that a search begins with
LEADERS_BEFORE = 5  # and of the nearest of those, what was fastest: its best alone is often not good here (docs/log.md)


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
    what the machine read at the same moment; `source`: "searched", or "known" when earlier runs had tried enough.
    Energies in microjoules a call, where they were asked for."""

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
    best_uj: float | None = None
    default_uj: float | None = None


class ProblemSearch:
    """One problem's search: its space, its study, its run in the database."""

    def __init__(
        self, problem, where: TuneTarget, db: TuningDB, crew: WorkerPool, sampler: str, seed: int, index, report,
        trials: int | None, studies: Studies | None = None,
    ):  # fmt: skip
        self.problem, self.where, self.device, self.db, self.crew = problem, where, where.device, db, crew
        self.index, self.report, self.trials = index, report, trials
        self.bench = candidate_runner.CandidateRunner(problem, where, crew, seed)
        self.operation = registry.get(problem.op)
        self.space: Space = where.space(problem)
        self.work = where.work(problem)
        ceilings = db.ceilings(self.device) or {}
        self.sieve = Pruner(self.device, self.work.bytes, self.space.default, ceilings.get("read_gb_s"))
        self.past = db.past_trials(self.device, problem.key, problem.template_version)
        self.search: Search | SharedSearch = Search(self.space, sampler, seed)
        if studies is not None:
            self.search = studies.join(self.search, self.device, problem, trials, where.objective)
            self.trials = None  # the study counts those of all workers
        self.tried: dict[Config, Trial] = {}
        self.proposed: set[Config] = set()  # by this run
        for trial in self.past:
            config = Config(trial.config)
            scored = trial.measurement is None or self._score(trial) is not None
            if self.space.broken(config) is None and scored:
                self._remember(config, trial)
                self.search.replay(config, self._score(trial))
        self.sampler, self.seed = sampler, seed
        self.run_id, self.known = -1, 0  # until it begins
        self.status = "finished"
        self.compile_s, self.measured = 0.0, 0  # what this run has spent, and on how many

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Around everything the search does: its run in the database. `status` says how it ended; when it is cut
        short, the best so far is kept. Raises TuneError when a worker is lost for good."""
        size = candidate_runner.space_size(self.search.size)
        run = Run(
            self.problem.key, self.problem.template_version, self.sampler, self.seed, size, self.work.bytes,
            self.work.ops, versions(), self.where.objective,
        )  # fmt: skip
        self.run_id = self.db.begin_run(self.device, run, self.space)
        self.known = len(self.tried)
        try:
            yield
        except (WorkerDied, WorkerTimedOut) as gone:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise TuneError(f"{self.problem.key}: {gone}") from gone
        except BaseException:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise
        finally:
            if isinstance(self.search, SharedSearch):
                self.search.release()
        self.db.finish_run(self.run_id, self.status)

    def propose(self) -> bool:
        """Have a worker compile what the sampler asks for next; whether there was anything."""
        config = self._next()
        if config is not None:
            self.proposed.add(config)
            self.bench.compile(config, base=self.space.default)
        return config is not None

    def _next(self) -> Config | None:
        if self.trials is not None and len(self.proposed | self.tried.keys()) >= self.trials:
            return None
        return self.search.ask()

    @property
    def waits(self) -> bool:
        """Whether other workers may leave something to this one yet."""
        return isinstance(self.search, SharedSearch) and self.search.waiting

    def _challenge_from_elsewhere(self) -> None:
        """What other workers found fastest is verified and timed here too, so that it can win here."""
        assert isinstance(self.search, SharedSearch)
        for config in self.search.leaders(FROM_ELSEWHERE):
            if config not in self.tried and self.space.broken(config) is None:
                self.bench.compile(config, base=self.space.default)
                while self.bench.compiling:
                    for done, compiled in self.bench.compiled(1.0):
                        self.attempt(done, compiled)

    def suggest(self, others: Sequence[Tuned]) -> None:
        """Propose first what won for a problem like this one on this chip, and what other operations' winners of this
        run have in common with it: parameters of one name mean the same everywhere ("down_lanes" is a kind of "lanes").
        """
        hints = known_elsewhere(self.db, self.where, self.problem)
        for other in reversed(others):
            won = other.config
            shared = {n: won.get(n, won.get(n.rpartition("_")[2], v)) for n, v in self.space.default.items()}
            hints.append(Config(shared))
        self.search.suggest(hints)

    def attempt(self, config: Config, compiled: Answer) -> None:
        """Verify and time what was compiled, unless screening knows better, and record what became of it."""
        trial = self._screened(config, compiled)
        if trial is None:
            trial = self.bench.trial(config, compiled, lambda: self._measure(config))
            self.sieve.remember(config, _facts(compiled), trial)
        self.compile_s, self.measured = self.compile_s + (trial.compile_s or 0.0), self.measured + 1
        self.db.record_trial(self.run_id, trial)
        self._remember(config, trial)
        self.search.tell(config, self._score(trial))
        best, default = self.best(), self.tried.get(self.space.default)
        self.report(
            Progress(
                self.problem, self.index[0], self.index[1], len(self.tried), self.trials,
                _median_ns(self.tried[best[1]]) if best else None, _median_ns(default), trial.outcome,
            )
        )  # fmt: skip

    def _screened(self, config: Config, compiled: Answer) -> Trial | None:
        if not (facts := _facts(compiled)) or isinstance(compiled, Exception):
            return None
        # A bound on the time tells nothing of another objective.
        best = self.best() if self.where.objective is Objective.TIME else None
        return self.sieve.judge(config, facts, compiled[1], _median_ns(self.tried[best[1]]) if best else None)

    def _measure(self, config: Config) -> tuple:
        return self.bench.ask("measure", dict(config), SAMPLES, *self.where.energy)

    def _score(self, trial: Trial) -> float | None:
        """What the search makes small, times in seconds; None: it failed, or another objective was measured."""
        found = self.where.objective.of(trial.measurement)
        return None if found is None else found * 1e-9

    def _remember(self, config: Config, trial: Trial) -> None:
        known = self.tried.get(config)
        if known is None or known.measurement is None or trial.measurement is not None:
            self.tried[config] = trial

    def _ranked(self) -> list[tuple[float, Config]]:
        scored = [(score, c) for c, t in self.tried.items() if (score := self._score(t)) is not None]
        return sorted(scored, key=lambda pair: pair[0])

    def best(self) -> tuple[float, Config] | None:
        """Score and configuration of the best so far, if any works."""
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def decide(self, count: int) -> Tuned:
        """Rematch the leaders and the default in one go; the best median wins and is recorded."""
        if isinstance(self.search, SharedSearch):
            self._challenge_from_elsewhere()
        leaders = [c for _, c in self._ranked()[:LEADERS]]
        if not leaders:
            raise TuneError(f"{self.problem.key}: no configuration worked; autotune db list --runs shows why")
        default = self.space.default
        entries = leaders if default in leaders or self._failed(default) else [*leaders, default]
        by_config, rate = final(self.bench, entries, REMATCH_ROUNDS, self._record_again)
        chosen = min(by_config, key=lambda c: self.where.objective.of(by_config[c][0]) or math.inf)
        for config, (measurement, error) in by_config.items():
            proved = (Outcome.OK, measurement, None, error, self.bench.tolerance)
            trial = Trial(dict(config), *proved, kind=TrialKind.FINAL_COMPARISON)
            trial_id = self.db.record_trial(self.run_id, trial)
            if config == chosen:
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
            candidate_runner.reference(self.problem, self.seed),
            versions(),
            candidate_runner.clock_mhz(best),
        )
        self.db.set_winner(self.device, winner, self.run_id, won_id)
        if isinstance(self.search, SharedSearch):
            publish(self.search, self.db, self.device, self.problem)
        gb_s, default_gb_s = self.work.bytes / best.median_ns, self.work.bytes / default_ns
        failed = sum(t.measurement is None and t.outcome is not Outcome.PRUNED for t in self.tried.values())
        return Tuned(
            self.problem, count, won, default_ns, best.median_ns, gb_s, default_gb_s, gb_s * 1e9 / rate,
            len(self.tried), failed, "searched" if len(self.tried) > self.known else "known", best.energy_uj,
            by_config[default][0].energy_uj if default in by_config else None,
        )  # fmt: skip

    def _record_again(self, trial: Trial) -> None:
        """What worked before and was tried once more at the end."""
        self.db.record_trial(self.run_id, trial)
        self.tried[Config(trial.config)] = trial

    def _failed(self, config: Config) -> bool:
        return config in self.tried and self.tried[config].measurement is None

    def _keep_best_so_far(self) -> None:
        """An interrupted search still leaves its best verified candidate, if no winner is known."""
        best = self.best()
        known = self.db.lookup(self.device, self.problem.key, self.problem.template_version)
        if best is None or known.measured_here:
            return
        trial, default = self.tried[best[1]], self.tried.get(self.space.default)
        assert trial.measurement is not None and trial.error is not None and trial.tolerance is not None
        default_ns = _median_ns(default)
        winner = Winner(
            self.problem.key, self.problem.template_version, dict(best[1]), trial.measurement, default_ns,
            trial.error, trial.tolerance, candidate_runner.reference(self.problem, self.seed), versions(),
            candidate_runner.clock_mhz(trial.measurement),
        )  # fmt: skip
        self.db.set_winner(self.device, winner, self.run_id, None)


def known_elsewhere(db: TuningDB, where: TuneTarget, problem: Problem) -> list[Config]:
    """What to try first: what the template would choose for the nearest problem tuned so far, for its rules of thumb
    have edges; the winner that a model would run with now, then those nearest to this problem, by shape and by chip,
    from this database and from those that come with autotune; then what else was fast for the nearest one."""
    asked = (where.device, problem.key, problem.template_version)
    answer, near = db.lookup(*asked), db.relatives(*asked)[:RELATIVES]
    winners = [w.config for w in ([answer.winner] if answer.winner else []) + near]
    untuned = [default for w in near[:1] if (default := _untuned(where, w.problem))]
    return [*untuned, *map(Config, (*winners, *db.leaders(*asked, LEADERS_BEFORE)))]


def _untuned(where: TuneTarget, problem: str) -> Config | None:
    """The default of another problem; None where its sizes, out of somebody's database, suit no template."""
    try:
        return where.space(registry.parse_problem(problem)).default
    except (ValueError, ArithmeticError):
        return None


def _facts(compiled: Answer) -> Sequence[KernelResources | None]:
    """Of the kernels that were compiled; none on a processor."""
    return () if isinstance(compiled, Exception) or len(compiled) < 3 or compiled[0] != "compiled" else compiled[2]


def _median_ns(trial: Trial | None) -> float | None:
    return None if trial is None or trial.measurement is None else trial.measurement.median_ns
