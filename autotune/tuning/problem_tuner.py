"""Tunes one problem alone: what its search begins with, proposals, trials, and the comparison at the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.runner.protocol import Compiled
from autotune.runner.worker_pool import Answer
from autotune.samplers.study import Search
from autotune.screening.pruner import Pruner
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import SAMPLES, Session, Tuned, Tuner
from kernel_templates import registry
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from tuning_db import TuningDB
from tuning_db.records import Objective, Trial

if TYPE_CHECKING:  # which import a server's libraries
    from autotune.samplers.shared_search import SharedSearch

FINALISTS = 4
FINAL_ROUNDS = 15
FROM_ELSEWHERE = 2  # of other workers' best that meet this one's
RELATIVES = 4  # winners of other shapes and chips that a search begins with
LEADERS_BEFORE = 5  # and of the nearest of those, what was fastest: its best alone is often not good here (docs/log.md)


class ProblemTuner(Tuner):
    """One problem's search: its space, its study, its run in the database."""

    def __init__(self, problem: Problem, session: Session, position: tuple[int, int]):
        super().__init__(problem, session, position)
        ceilings = self.db.ceilings(self.target.device) or {}
        self._pruner = Pruner(self.target.device, self.work.bytes, self.space.default, ceilings.get("read_gb_s"))
        self._shared: SharedSearch | None = None
        self.search: Search | SharedSearch = Search(self.space, self.settings.sampler, self.settings.seed)
        if self.settings.studies is not None:
            self._shared = self.search = self.settings.studies.join(
                self.search, self.target.device, problem, self.trials, self.target.objective
            )
            self.trials = None  # the study counts those of all workers
        for trial in self.past:
            self.search.replay(Config(trial.config), self._seconds(trial))
        self._proposed: set[Config] = set()  # by this run
        self.compile_s, self.measured = 0.0, 0  # what this run has spent, and on how many

    @contextmanager
    def tuning(self) -> Iterator[None]:
        """Around everything the search does: see `Tuner.recorded`."""
        try:
            with self.recorded(self.settings.sampler, self.search.size):
                yield
        finally:
            if self._shared is not None:
                self._shared.release()

    def propose(self) -> bool:
        """Have a worker compile what the sampler asks for next; whether there was anything."""
        config = self._next()
        if config is not None:
            self._proposed.add(config)
            self.runner.compile(config, base=self.space.default)
        return config is not None

    def _next(self) -> Config | None:
        if self.trials is not None and len(self._proposed | self.tried.keys()) >= self.trials:
            return None
        return self.search.ask()

    @property
    def waits(self) -> bool:
        """Whether other workers may leave something to this one yet."""
        return self._shared is not None and self._shared.waiting

    def suggest(self, others: Sequence[Tuned]) -> None:
        """Propose first what won for a problem like this one on this chip, and what other operations' winners of this
        run have in common with it: parameters of one base name mean the same everywhere."""
        hints = known_elsewhere(self.db, self.target, self.problem)
        for other in reversed(others):
            won = other.config
            shared = {p.name: won.get(p.name, won.get(p.base_name, p.default)) for p in self.space.parameters}
            hints.append(Config(shared))
        self.search.suggest(hints)

    def attempt(self, config: Config, compiled: Answer) -> None:
        """Verify and time what was compiled, unless screening knows better, and record what became of it."""
        kernels = compiled.kernels if isinstance(compiled, Compiled) else ()
        trial = None
        if kernels and isinstance(compiled, Compiled):
            trial = self._pruner.prune(config, kernels, compiled.seconds, self._bound_ns())
        if trial is None:
            trial = self.runner.trial(config, compiled, lambda: self.runner.measure(config, SAMPLES))
            self._pruner.remember(config, kernels, trial)
        self.compile_s, self.measured = self.compile_s + (trial.compile_s or 0.0), self.measured + 1
        self.search.tell(config, self._seconds(trial))
        self.record(trial)

    def _bound_ns(self) -> float | None:
        """What a candidate has to be faster than; a bound on the time tells nothing of another objective."""
        best = self.best_config() if self.target.objective is Objective.TIME else None
        return None if best is None else self.best_ns(best)

    def _seconds(self, trial: Trial) -> float | None:
        """What the search makes small, times in seconds; None: it failed."""
        found = self.score(trial.measurement)
        return None if found is None else found * 1e-9

    def _ranked(self, trials: Mapping[Config, Trial]) -> list[Config]:
        """What works, the best first."""
        scored = [(score, config) for config, trial in trials.items()
                  if (score := self.score(trial.measurement)) is not None]  # fmt: skip
        return [config for _, config in sorted(scored, key=lambda pair: pair[0])]

    def best_config(self) -> Config | None:
        return next(iter(self._ranked(self.tried)), None)

    def best_of_run(self) -> Config | None:
        return next(iter(self._ranked(self.own)), None)

    def compile_finalists(self) -> None:
        """Have compiled what `finish` compares and this run did not try: the process that measures would do that
        itself, and measure nothing meanwhile."""
        best = self._ranked(self.tried)[:FINALISTS]
        for config in dict.fromkeys((self.space.default, self.standing, *best) if best else ()):
            if config is not None and config not in self.own and self._works(config) is not False:
                self.runner.compile(config)

    def finish(self, count: int) -> Tuned | None:
        """Compare the best with what runs untuned in one go; the winner is recorded. count: how often a token runs
        this problem. None, and a word to the user, when time ran out before anything was tried. Raises TuneError when
        nothing that was tried works."""
        if self._shared is not None:
            self._try_best_from_elsewhere(self._shared)
        finalists = self._ranked(self.tried)[:FINALISTS]
        if not finalists and self.tried:
            trial = self.tried.get(self.space.default) or next(iter(self.tried.values()))
            why = f"{trial.outcome.value}, {trial.message}" if trial.message else trial.outcome.value
            raise TuneError(f"{self.problem.key}: no configuration of {len(self.tried)} worked; the first: {why}")
        if not finalists:
            self.settings.tell(f"{self.problem.key}: not tuned, nothing was compiled in time; --budget gives it more")
            return None
        tuned, _ = self.compare_finalists(finalists, FINAL_ROUNDS)
        if self._shared is not None:
            from autotune.tuning.shared_studies import publish

            publish(self._shared, self.db, self.target.device, self.problem)
        return replace(tuned, count=count)

    def _try_best_from_elsewhere(self, search: "SharedSearch") -> None:
        """What other workers found fastest is verified and timed here too, so that it can win here."""
        for config in search.fastest(FROM_ELSEWHERE):
            if config not in self.tried and self.space.broken(config) is None:
                self.runner.compile(config, base=self.space.default)
                while self.runner.compiling:
                    for done, compiled in self.runner.compiled(1.0):
                        self.attempt(done, compiled)


def known_elsewhere(db: TuningDB, target: TuneTarget, problem: Problem) -> list[Config]:
    """What to try first: what the template would choose for the nearest problem tuned so far, for its rules of thumb
    have edges; the winner that a model would run with now, then those nearest to this problem, by shape and by chip,
    from this database and from those that come with autotune; then what else was fast for the nearest one."""
    asked = (target.device, problem.key, problem.template_version)
    answer, near = db.lookup(*asked), db.relatives(*asked)[:RELATIVES]
    winners = [w.config for w in ([answer.winner] if answer.winner else []) + near]
    untuned = [default for w in near[:1] if (default := _untuned(target, w.problem))]
    complete = target.space(problem).completed
    return [*untuned, *map(complete, (*winners, *db.leaders(*asked, LEADERS_BEFORE)))]


def _untuned(target: TuneTarget, problem: str) -> Config | None:
    """The default of another problem; None where its sizes, out of a strange database, suit no template."""
    try:
        return target.space(registry.parse_problem(problem)).default
    except (ValueError, ArithmeticError):
        return None
