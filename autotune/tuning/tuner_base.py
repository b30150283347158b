"""What tuning one problem and tuning a layer share: the run, its trials, the final comparison and the winner."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from autotune.runner.versions import versions
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.tuning.candidate_runner import CandidateRunner, TuneError
from autotune.tuning.target import TuneTarget
from autotune.tuning.verdict import DEFAULT, STANDING, Compared, Verdict, decide
from kernel_templates import proof_record
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Run, Trial, TrialKind, Winner

if TYPE_CHECKING:
    from autotune.tuning.shared_studies import Studies

ATTEMPTS = 3  # at a final comparison
SAMPLES = 7  # of a trial
FAR = 1.5  # times what a winner took before, from which its time is not believed at once
LARGEST_INTEGER = (1 << 63) - 1  # of SQLite


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
class TuneSettings:
    """What a user may choose. trials: proposals a problem, earlier runs' included; budget_s: seconds for everything;
    None sets no limit. seed: of inputs and samplers. report: called after each trial; tell: given one line while this
    waits for another process that measures on the device, which the budget does not count. studies: where other
    workers tune the same problems; trials are then those of all workers."""

    trials: int | None = None
    budget_s: float | None = None
    sampler: str = "pool"
    seed: int = 0
    report: Callable[[Progress], None] = lambda progress: None
    tell: Callable[[str], None] = lambda message: None
    studies: "Studies | None" = None


@dataclass(frozen=True)
class Session:
    """What all tuners of one run share."""

    target: TuneTarget
    db: TuningDB
    worker_pool: WorkerPool
    settings: TuneSettings


@dataclass(frozen=True)
class Tuned:
    """What came out for one problem. best, default: in the final comparison, the default's None if it does not work;
    work_bytes: that the problem must move; read_bytes_s: bytes a second that the device read at the same moment;
    source: "searched", or "known" when earlier runs had tried enough. count: how often a token runs it; isolated_ns: of
    a layer, nanoseconds of what won alone. kept: what the winner was before the run, such as "default", empty for a
    candidate that took over; reason: one line, how the final comparison was decided; least_speedup: over the default,
    from which on the comparison's rounds tell it from chance, infinite where there were too few of them, NaN where
    there is nothing to compare."""

    problem: Problem
    config: Config
    best: Measurement
    default: Measurement | None
    work_bytes: int
    read_bytes_s: float
    trials: int
    failed: int
    source: str
    count: int = 1
    isolated_ns: float = math.nan
    kept: str = ""
    reason: str = ""
    least_speedup: float = math.nan

    @property
    def measurable(self) -> bool:
        """Whether the difference from the default is more than that between rounds; always, if that is not known."""
        if math.isnan(self.least_speedup) or math.isnan(self.default_ns):
            return True
        ratio = self.default_ns / self.best_ns
        return max(ratio, 1.0 / ratio) >= self.least_speedup

    @property
    def best_ns(self) -> float:
        return self.best.median_ns

    @property
    def default_ns(self) -> float:
        """NaN if the default does not work."""
        return math.nan if self.default is None else self.default.median_ns

    @property
    def best_uj(self) -> float | None:
        """Microjoules a call, where they were asked for."""
        return self.best.energy_uj

    @property
    def default_uj(self) -> float | None:
        """Microjoules a call, where they were asked for."""
        return None if self.default is None else self.default.energy_uj

    @property
    def gb_s(self) -> float:
        """10^9 bytes a second over `work_bytes`."""
        return self.work_bytes / self.best_ns

    @property
    def default_gb_s(self) -> float:
        return self.work_bytes / self.default_ns

    @property
    def share(self) -> float:
        """Of the rate at which the device read."""
        return self.gb_s * 1e9 / self.read_bytes_s


def past_trials(db: TuningDB, device: Device, problem: Problem, space: Space) -> list[Trial]:
    """Those of earlier runs; what was tried before a parameter counts as what was built then."""
    past = db.past_trials(device, problem.key, problem.template_version)
    return [replace(trial, config=space.completed(trial.config)) for trial in past]


class Tuner:
    """One run over one problem: its space, what was tried in it, and the record of that in the database."""

    stage = 1

    def __init__(self, problem: Problem, session: Session, position: tuple[int, int]):
        """position: (which, of how many) problems of the run's stage."""
        self.problem, self.position = problem, position
        self.target, self.db, self.worker_pool, self.settings = (
            session.target, session.db, session.worker_pool, session.settings,
        )  # fmt: skip
        self.runner = CandidateRunner(problem, self.target, self.worker_pool, self.settings.seed)
        self.space: Space = self.target.space(problem)
        self.work = self.target.work(problem)
        self.trials = self.settings.trials
        past = past_trials(self.db, self.target.device, problem, self.space)
        self.past = [trial for trial in past if self._counts(trial)]
        self.tried: dict[Config, Trial] = {}
        for trial in self.past:  # a failure may have been the machine's: what was measured once is not forgotten
            config = Config(trial.config)
            if trial.kind is TrialKind.FINAL_COMPARISON and config not in self.tried:
                continue  # the default may have been timed at the end alone: that was no trial
            if trial.measurement is not None or self._works(config) is not True:
                self.tried[config] = trial
        self.known = len(self.tried)
        self.own: dict[Config, Trial] = {}  # what this run has tried itself
        answer = self.db.lookup(self.target.device, problem.key, problem.template_version)
        standing = None if answer.winner is None else self.space.completed(answer.winner.config)
        self.standing = None if standing is None or self.space.broken(standing) is not None else standing
        self._standing_name = STANDING.get(answer.source, "")
        self.run_id = -1  # until it begins
        self.status = "finished"
        self._provisional: set[Config] = set()  # what this run has made the winner so far
        self._decided = False

    def _counts(self, trial: Trial) -> bool:
        """Whether an earlier trial says something here: it is valid, and what is made small was measured."""
        scored = trial.measurement is None or self.score(trial.measurement) is not None
        return scored and self.space.broken(trial.config) is None

    def score(self, measurement: Measurement | None) -> float | None:
        """What the search makes small: nanoseconds, microjoules or their product; None where it is not known."""
        return self.target.objective.of(measurement)

    def best_config(self) -> Config | None:
        """The best so far, if any works."""
        raise NotImplementedError

    def best_of_run(self) -> Config | None:
        """The best that this run has verified itself, if any works."""
        raise NotImplementedError

    def _error_of(self, trial: Trial) -> float:
        """The largest relative error that is known of a trial's configuration."""
        assert trial.error is not None
        return trial.error

    def _works(self, config: Config) -> bool | None:
        """None: it was not tried."""
        return None if config not in self.tried else self.tried[config].measurement is not None

    @contextmanager
    def recorded(self, sampler: str, size: int) -> Iterator[None]:
        """Around everything a tuner does: its run in the database. `status` says how it ended; when it is cut short,
        the best so far is kept. size: configurations of the space. Raises TuneError when a worker is lost for good."""
        run = Run(
            self.problem.key, self.problem.template_version, sampler, self.settings.seed,
            size if size <= LARGEST_INTEGER else 0, self.work.bytes, self.work.ops, versions(), self.target.objective,
        )  # fmt: skip
        self.run_id = self.db.begin_run(self.target.device, run, self.space)
        try:
            yield
        except BaseException as error:
            self.keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            if isinstance(error, WorkerDied | WorkerTimedOut):
                raise TuneError(f"{self.problem.key}: {error}") from error
            raise
        self.db.finish_run(self.run_id, self.status)

    def record(self, trial: Trial) -> None:
        """Store a trial of the search, and report it."""
        self._store(trial)
        best, default = self.best_config(), self.tried.get(self.space.default)
        best_ns = None if best is None else self.best_ns(best)
        self.settings.report(
            Progress(
                self.problem, *self.position, len(self.tried), self.trials, best_ns, _median_ns(default), trial.outcome,
                self.stage,
            )
        )  # fmt: skip

    def best_ns(self, best: Config) -> float | None:
        """The time that is shown for the best so far."""
        return _median_ns(self.tried[best])

    def _store(self, trial: Trial) -> None:
        self.db.record_trial(self.run_id, trial)
        self.tried[Config(trial.config)] = self.own[Config(trial.config)] = trial

    def compare_finalists(
        self, finalists: Sequence[Config], rounds: int, may_win: Callable[[Config], bool] = lambda config: True,
        untuned: Mapping[Config, str] | None = None,
    ) -> tuple[Tuned, dict[Config, float]]:  # fmt: skip
        """Verify the best once more and time them in turn with what runs untuned; the winner is recorded. untuned:
        baselines (see `verdict.decide`) beside the default and what a model would run with now.
        Returns what came out, and nanoseconds of each finalist that works. Raises what `_compared` raises."""
        baselines = {} if self.standing is None or not may_win(self.standing) else {self.standing: self._standing_name}
        baselines |= untuned or {}
        baselines.setdefault(self.space.default, DEFAULT)
        # The default first: its samples are taken twice.
        everything = dict.fromkeys((self.space.default, *baselines, *finalists))
        entries = [config for config in everything if self._works(config) is not False]
        found, verdict = self._decided_by(entries, baselines, rounds, may_win)
        searched = len(self.tried) > self.known
        self._record_final(found, verdict)
        times = {config: measurement.median_ns for config, measurement in found.measurements.items()}
        failed = (t for t in self.tried.values() if t.measurement is None and t.outcome is not Outcome.PRUNED)
        tuned = Tuned(
            self.problem, verdict.config, found.measurements[verdict.config],
            found.measurements.get(self.space.default), self.work.bytes, found.read_bytes_s, len(self.tried),
            sum(1 for _ in failed), "searched" if searched else "known", kept=verdict.kept, reason=verdict.reason,
            least_speedup=self._least_speedup(found, verdict.config),
        )  # fmt: skip
        return tuned, times

    def _least_speedup(self, found: Compared, config: Config) -> float:
        """Of a configuration over the default; NaN where that is itself, does not work or is not compared by time."""
        default, rounds = self.space.default, found.rounds(self.target.objective)
        if config == default or default not in found.samples or not rounds.paired:
            return math.nan
        least = rounds.least(config, default)
        return 1.0 / least if least > 0.0 else math.inf

    def _decided_by(
        self, entries: Sequence[Config], baselines: Mapping[Config, str], rounds: int, may_win: Callable[[Config], bool]
    ) -> tuple[Compared, Verdict]:
        """One comparison, and a second one where the first leaves open what is faster, or where the winner took far
        longer than it ever did."""
        found = self._compared(entries, rounds, may_win)
        verdict = decide(found.rounds(self.target.objective), baselines, may_win)
        ns, before = found.measurements[verdict.config].median_ns, self._median_before(verdict.config)
        if before is not None and ns > FAR * before:
            found = self._compared(list(found.samples), rounds, may_win)
            verdict = decide(found.rounds(self.target.objective), baselines, may_win)
            told = f"measured again, for {ns / 1e3:.2f} µs came after {before / 1e3:.2f} µs"
            return found, replace(verdict, reason=f"{verdict.reason}; {told}")
        if verdict.unclear:
            found = found.joined(self._compared(list(found.samples), rounds, may_win))
            verdict = decide(found.rounds(self.target.objective), baselines, may_win)
        return found, verdict

    def _median_before(self, config: Config) -> float | None:
        """Nanoseconds that a configuration took in trials here, the median of all; None if it was never timed."""
        trials = [*self.past, *filter(None, [self.own.get(config)])]
        times = sorted(t.measurement.median_ns for t in trials if t.measurement is not None and t.config == config)
        return times[len(times) // 2] if times else None

    def _record_final(self, found: Compared, verdict: Verdict) -> None:
        ids, tolerance = {}, self.runner.tolerance
        for config, measurement in found.measurements.items():
            message = verdict.reason if config == verdict.config else None
            proved = (Outcome.OK, measurement, None, found.errors[config], tolerance, message)
            ids[config] = self.db.record_trial(
                self.run_id, Trial(dict(config), *proved, kind=TrialKind.FINAL_COMPARISON)
            )
        default = found.measurements.get(self.space.default)
        best = verdict.config
        self._set_winner(
            best,
            found.measurements[best],
            found.errors[best],
            tolerance,
            default.median_ns if default else None,
            ids[best],
        )
        self._decided = True

    def _compared(self, finalists: Sequence[Config], rounds: int, may_win: Callable[[Config], bool]) -> Compared:
        """When the comparison fails, each is tried by itself, what became of it is stored, and what works goes on.
        Raises TuneError when that leaves none that may win, or it fails ATTEMPTS times."""
        entries = list(finalists)
        why: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                return Compared.of(entries, self.runner.compare_finalists(entries, rounds))
            except (TuneError, WorkerDied, WorkerTimedOut) as failed:
                why = failed
            for config in entries:
                self._store(self.runner.measured_trial(config, partial(self.runner.measure, config, SAMPLES)))
            entries = [config for config in entries if self._works(config)]
            if not any(may_win(config) for config in entries):
                break
        raise TuneError(f"{self.problem.key}: the last comparison failed: {why}") from why

    def keep_best_so_far(self) -> None:
        """Whatever happens next, the problem has a winner, unless one was measured here before: the best that this run
        has verified itself, or what ran untuned where the best is not clearly faster."""
        best = self.best_of_run()
        if best is None or self._decided or best in self._provisional:
            return
        known = self.db.lookup(self.target.device, self.problem.key, self.problem.template_version)
        if known.measured_here and not self._provisional:
            return
        for untuned in filter(None, (self.space.default, self.standing)):
            if untuned != best and not self._clearly_faster(best, untuned):
                best = untuned
        trial = self.own.get(best)
        if trial is None or trial.measurement is None or trial.tolerance is None:
            return  # what stands was not tried by this run: it stays
        default_ns = _median_ns(self.own.get(self.space.default))
        self._set_winner(best, trial.measurement, self._error_of(trial), trial.tolerance, default_ns, None)
        self._provisional.add(best)

    def _clearly_faster(self, config: Config, untuned: Config) -> bool:
        """Whether nine tenths of one's samples lie below nine tenths of the other's; they were not taken in turn."""
        mine, theirs = self.own[config].measurement, self.own.get(untuned)
        if theirs is None:
            return untuned != self.standing
        return mine is not None and (theirs.measurement is None or mine.q90_ns < theirs.measurement.q10_ns)

    def _set_winner(
        self, config: Config, measured: Measurement, error: float, tolerance: float, default_ns: float | None,
        trial_id: int | None,
    ) -> None:  # fmt: skip
        reference = f"kernel_templates.{self.problem.op}.reference in float64, inputs of seed {self.settings.seed}"
        winner = Winner(
            self.problem.key, self.problem.template_version, dict(config), measured, default_ns, error, tolerance,
            reference, versions(), _clock_mhz(measured),
        )  # fmt: skip
        self.db.set_winner(self.target.device, winner, self.run_id, trial_id)
        proof_record.remember(self.problem, config, self.target.device, None)  # this run has verified it


def _clock_mhz(measurement: Measurement) -> float | None:
    """The chip's mean clock before and after a measurement; None where the device does not say."""
    state = measurement.state or {}
    pair = state.get("sm_mhz") or state.get("mhz")
    return None if pair is None else sum(pair) / len(pair)


def _median_ns(trial: Trial | None) -> float | None:
    return None if trial is None or trial.measurement is None else trial.measurement.median_ns
