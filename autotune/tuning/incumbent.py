"""The best known of one layer: others challenge it in duels, each is recorded with what it tells, and at the end the
last champions meet once more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from autotune.runner.versions import versions
from autotune.runner.worker_pool import Answer, WorkerPool
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import CandidateRunner
from autotune.tuning.final_comparison import final
from autotune.tuning.neighborhood import Moves
from autotune.tuning.problem_tuner import Progress
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Trial, TrialKind, Winner

CHAMPIONS = 4  # the last ones, which meet again at the end
DUEL_ROUNDS = 15
GAIN = 0.997  # of the best's time: less than this difference is not told from chance
FINAL_ROUNDS = 21
FIRST_SAMPLES = 7
CACHED_S = 0.1  # what took less to compile was there already
ATTENTION = "attention"  # the prefix of what depends on the context


@dataclass(frozen=True)
class TunedLayer:
    """What came out for one layer. Times of the layer in nanoseconds: with every default, with what won alone, and
    tuned in context; share: of what the machine read at the same moment. Energies in microjoules a call, where they
    were asked for."""

    problem: Problem
    config: Config
    default_ns: float
    isolated_ns: float
    best_ns: float
    gb_s: float
    share: float
    trials: int
    failed: int
    source: str
    best_uj: float | None = None
    default_uj: float | None = None


class Incumbent:
    """A layer's best so far, what was tried, and what that told of its kernels."""

    def __init__(
        self, layer: Any, db: TuningDB, where: TuneTarget, crew: WorkerPool, seed: int, moves: Moves, index, report
    ):
        self.layer, self.db, self.where, self.index, self.report = layer, db, where, index, report
        self.seed = seed
        self.judge = CandidateRunner(layer, where, crew, seed)
        self.space: Space = where.space(layer)
        self.moves = moves
        self.work = where.work(layer)
        self.tried: dict[Config, Trial] = {}
        self.champions: list[Config] = []
        # Of each kernel's blocks that were tried in context: its share of the first best's time, and its error.
        self.times: dict[str, dict[Config, float]] = {kernel: {} for kernel in moves.kernels}
        self.proved: dict[str, dict[Config, float]] = {kernel: {} for kernel in moves.kernels}
        self.level = 1.0  # the best's time as a share of the first best's
        self.compiling: dict[str, tuple[float, int]] = {}  # seconds and configurations, by kernel
        self.leader: Config | None = None
        self.best: Config | None = None
        self.best_ns = math.inf
        self.known, self.had_winner = self._replay()
        self.kept: set[Config] = set()  # what this run has made the winner so far
        self.fresh = 0
        self.run_id = -1  # until it begins

    def _replay(self) -> tuple[Config | None, bool]:
        """Read what earlier runs tried, so as not to try it again. Returns the winner known for this layer or one like
        it on this chip, if it is valid here, and whether it is this layer's own."""
        for trial in self.db.past_trials(self.where.device, self.layer.key, self.layer.template_version):
            if trial.measurement is None or self.where.objective.of(trial.measurement) is not None:
                self.tried[Config(trial.config)] = trial
        answer = self.db.lookup(self.where.device, self.layer.key, self.layer.template_version)
        winner = answer.winner
        config = Config(winner.config) if winner else None
        valid = config is not None and self.space.broken(config) is None
        return (config if valid else None), answer.measured_here

    def may_win(self, config: Config) -> bool:
        """Valid, and beyond attention what the leader has."""
        if self.space.broken(config) is not None:
            return False
        return self.leader is None or all(
            config[name] == value for name, value in self.leader.items() if not name.startswith(f"{ATTENTION}_")
        )

    def first(self, config: Config, compiled: Answer) -> None:
        """Prove and time a configuration while there is no best; if it works, it is."""
        trial = self.judge.trial(config, compiled, partial(self._measure, config))
        if trial.measurement is not None:
            self._take_over(config, trial.measurement.median_ns)
            self._prove(config, trial.error)
        self._record(trial)
        if self.best is not None:
            self.keep_best_so_far()

    def _measure(self, config: Config) -> tuple:
        return self.judge.ask("measure", dict(config), FIRST_SAMPLES, *self.where.energy)

    def _score(self, measurement: Measurement | None) -> float:
        """What the search makes small; infinite where it is not known."""
        found = self.where.objective.of(measurement)
        return math.inf if found is None else found

    def _prove(self, config: Config, error: float | None) -> None:
        for kernel in self.moves.kernels:
            self.proved[kernel].setdefault(self.moves.block(kernel, config), error or 0.0)

    def _is_proved(self, config: Config) -> bool:
        return all(self.moves.block(kernel, config) in blocks for kernel, blocks in self.proved.items())

    def challenge(self, config: Config, compiled: Answer) -> bool:
        """Time a configuration in turn with the best; whether it is the best now."""
        champion = self.best
        assert champion is not None
        verify, theirs, energy = not self._is_proved(config), [math.inf], self.where.energy

        def duel() -> tuple:
            reply = self.judge.ask("duel", dict(config), dict(champion), DUEL_ROUNDS, verify, *energy)
            if reply[0] != "duel":
                return reply
            theirs[0] = self._score(reply[2])
            # What is made of parts proved before is not proved again until it may win: no error then.
            return ("ok", reply[1], None if math.isnan(reply[3]) else reply[3])

        trial = self.judge.trial(config, compiled, duel)
        won, ns = False, math.inf if trial.measurement is None else trial.measurement.median_ns
        changed = self.moves.changed(config, champion)
        if trial.measurement is None:
            self._learn(changed, config, math.inf, None)
        else:
            ratio = self._score(trial.measurement) / theirs[0]
            won = ratio < GAIN
            trial = replace(
                trial,
                message=f"{'took over' if won else 'stayed behind'}: {ratio:.4f} of the best's {self.where.objective}",
            )
            self._prove(config, trial.error)
            self._learn(changed, config, ratio, trial.compile_s)
            if won:
                self.level *= ratio
                self._take_over(config, ns)
        self._record(trial)
        return won

    def _learn(self, changed: Sequence[str], config: Config, ratio: float, compile_s: float | None) -> None:
        """What one kernel's change tells of it; ratio: to the best's time, infinite for a failure."""
        if len(changed) != 1:
            return
        (kernel,) = changed
        self.times[kernel][self.moves.block(kernel, config)] = ratio * self.level
        seconds, count = self.compiling.get(kernel, (0.0, 0))
        if compile_s is not None and compile_s > CACHED_S:
            self.compiling[kernel] = (seconds + compile_s, count + 1)

    def _take_over(self, config: Config, ns: float) -> None:
        self.best, self.best_ns = config, ns
        self.champions = [*self.champions, config][-CHAMPIONS:]
        for kernel, times in self.times.items():
            block = self.moves.block(kernel, config)
            times[block] = min(times.get(block, math.inf), self.level)

    def _record(self, trial: Trial) -> None:
        self.db.record_trial(self.run_id, trial)
        self.tried[Config(trial.config)] = trial
        self.fresh += 1
        default = self.tried.get(self.space.default)
        self.report(
            Progress(
                self.layer, self.index[0], self.index[1], len(self.tried), None,
                None if self.best is None else self.best_ns,
                default.measurement.median_ns if default and default.measurement else None, trial.outcome, 2,
            )
        )  # fmt: skip

    def decide(self, isolated: Config) -> TunedLayer:
        """Prove and time the best, what won alone and the default against each other; the fastest is recorded."""
        assert self.best is not None
        finalists = (*reversed(self.champions), isolated, self.space.default)
        entries = [c for c in dict.fromkeys(finalists) if self._works(c)]
        # A combination of proved parts may be wrong all the same, and so may the default.
        found, rate = final(self.judge, entries, FINAL_ROUNDS, self._record_again, self.may_win)
        won = min((c for c in found if self.may_win(c)), key=lambda c: self._score(found[c][0]))
        ids = {}
        for config, (measurement, error) in found.items():
            proved = (Outcome.OK, measurement, None, error, self.judge.tolerance)
            trial = Trial(dict(config), *proved, kind=TrialKind.FINAL_COMPARISON)
            ids[config] = self.db.record_trial(self.run_id, trial)
            self.tried.setdefault(config, trial)
        times = {c: m.median_ns for c, (m, _) in found.items()}
        self._set_winner(won, *found[won], times.get(self.space.default), ids[won])
        gb_s = self.work.bytes / times[won]
        return TunedLayer(
            self.layer, won, times.get(self.space.default, math.nan), times.get(isolated, math.nan), times[won], gb_s,
            gb_s * 1e9 / rate, len(self.tried), sum(t.measurement is None for t in self.tried.values()),
            "searched" if self.fresh > 1 else "known", found[won][0].energy_uj,
            found[self.space.default][0].energy_uj if self.space.default in found else None,
        )  # fmt: skip

    def _works(self, config: Config) -> bool:
        """Valid, and not known to fail."""
        trial = self.tried.get(config)
        return self.space.broken(config) is None and (trial is None or trial.measurement is not None)

    def _record_again(self, trial: Trial) -> None:
        """What worked before and was tried once more at the end."""
        self.db.record_trial(self.run_id, trial)
        self.tried[Config(trial.config)] = trial

    def _set_winner(
        self, config: Config, measured: Measurement, error: float, default_ns: float | None, trial_id: int | None
    ) -> None:
        winner = Winner(
            self.layer.key, self.layer.template_version, dict(config), measured, default_ns, error,
            self.judge.tolerance, candidate_runner.reference(self.layer, self.seed), versions(),
            candidate_runner.clock_mhz(measured),
        )  # fmt: skip
        self.db.set_winner(self.where.device, winner, self.run_id, trial_id)

    def keep_best_so_far(self) -> None:
        """Whatever happens next, the layer has a winner: the best so far, unless an earlier run has left one."""
        trial = None if self.best is None else self.tried.get(self.best)
        if self.best is None or trial is None or trial.measurement is None or self.had_winner or self.best in self.kept:
            return
        default = self.tried.get(self.space.default)
        default_ns = default.measurement.median_ns if default and default.measurement else None
        error = max(blocks.get(self.moves.block(k, self.best), 0.0) for k, blocks in self.proved.items())
        self._set_winner(self.best, trial.measurement, error, default_ns, None)
        self.kept.add(self.best)
