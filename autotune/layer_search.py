"""One layer's search in context: from the best known to a better one, by duels, and the winner."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from autotune import judging
from autotune.judging import Judge, TuneError
from autotune.layer_moves import DRAWS, Move, Moves, kernel_of
from autotune.measure.crew import Answer, Crew
from autotune.measure.process import WorkerDied, WorkerTimedOut
from autotune.place import Place
from autotune.problem_search import Progress
from autotune.search.study import grid_size, neighbours
from autotune.versions import versions
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

BEST_FEW = 6  # of a part alone, its default among them
CHAMPIONS = 4  # the last ones, which meet again at the end
DUEL_ROUNDS = 15
GAIN = 0.997  # of the best's time: less than this difference is not told from chance
FINAL_ROUNDS = 21
FINAL_SHARE, FINAL_S = 0.15, 1.5  # of the time, and at most, kept for the last comparison
LEAD_S = 1.5  # before that, so long, compilers work for the next layer
QUEUED = 4  # jobs that wait for a compiler
FIRST_SAMPLES = 7
CACHED_S = 0.1  # what took less to compile was there already
ATTENTION = "attention"  # the prefix of what depends on the context
MOST_PASSES = 1000
IDLE_PASSES = 2  # over all kernels without a gain, after which a search without a budget ends


@dataclass(frozen=True)
class TunedLayer:
    """What came out for one layer. Times of the layer in nanoseconds: with every default, with what won alone, and
    tuned in context; share: of what the machine read at the same moment."""

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


def best_alone(db: TuningDB, where: Place, problem: Problem, count: int) -> list[Config]:
    """A part's fastest configurations that were proved alone on this very device, its default always among them.

    A rematch's measurement counts more than the one before it: it was taken beside its rivals.
    """
    space = where.space(problem)
    times: dict[Config, float] = {}
    for trial in db.past_trials(where.device, problem.key, problem.template_version):
        config = Config(trial.config)
        if trial.outcome is Outcome.OK and trial.measurement is not None and space.broken(config) is None:
            times[config] = trial.measurement.median_ns
    ranked = sorted(times, key=times.__getitem__)
    if space.default in ranked[:count]:
        return ranked[:count]
    return [*ranked[: count - 1], space.default]


class LayerSearch:
    """One layer's search: its best, what was tried, its run in the database."""

    def __init__(self, layer: Any, db: TuningDB, where: Place, crew: Crew, seed: int, index, report):
        self.layer, self.db, self.where, self.crew, self.index, self.report = layer, db, where, crew, index, report
        self.judge = Judge(layer, where, crew, seed)
        self.space: Space = where.space(layer)
        self.parts: dict[str, Problem] = layer.parts()
        self.moves = Moves(self.space, {prefix: where.space(part) for prefix, part in self.parts.items()}, seed)
        self.alone = {prefix: best_alone(db, where, part, BEST_FEW) for prefix, part in self.parts.items()}
        self.work = where.work(layer)
        self.seed = seed
        self.tried: dict[Config, Trial] = {}
        self.champions: list[Config] = []
        # Of each kernel's blocks that were tried in context: its share of the first best's time, and its error.
        self.times: dict[str, dict[Config, float]] = {kernel: {} for kernel in self.moves.kernels}
        self.proved: dict[str, dict[Config, float]] = {kernel: {} for kernel in self.moves.kernels}
        self.level = 1.0  # the best's time as a share of the first best's
        self.compiling: dict[str, tuple[float, int]] = {}  # seconds and configurations, by kernel
        self.leader: Config | None = None
        self.best: Config | None = None
        self.best_ns = math.inf
        self.known, self.had_winner = self._replay()
        self.kept: set[Config] = set()  # what this run has made the winner so far
        self.proposed: set[Config] = set()
        self.after: Callable[[Config], None] | None = None
        self.fresh = 0
        self.run_id = -1  # until it begins

    def run(
        self, until: float | None, leader: Config | None, after: Callable[[Config], None] = lambda best: None
    ) -> TunedLayer:
        """Search until the clock says `until` or nothing improves, then decide. leader: the winner of a layer that
        differs in context only; all but attention's parameters are taken from it, for weights are packed once. after:
        called with the best once compilers have nothing to do here."""
        self.leader, self.after = leader, after
        status, now = "finished", time.monotonic()
        stop = None if until is None else until - min(FINAL_S, FINAL_SHARE * max(0.0, until - now))
        self.crew.withdraw(judging.WARMING)
        run = Run(
            self.layer.key, self.layer.template_version, "chain", self.seed, judging.space_size(grid_size(self.space)),
            self.work.bytes, self.work.ops, versions(),
        )  # fmt: skip
        self.run_id = self.db.begin_run(self.where.device, run, self.space)
        try:
            isolated = self._isolated()
            self._start(isolated)
            if self._descend([k for k in self.moves.kernels if leader is None or k == ATTENTION], stop):
                status = "budget"
            self.judge.close()  # what is still compiling, nobody waits for
            self._look_ahead()
            tuned = self._decide(isolated)
            self.judge.forget()
        except (WorkerDied, WorkerTimedOut) as gone:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise TuneError(f"{self.layer.key}: {gone}") from gone
        except BaseException:
            self._keep_best_so_far()
            self.db.finish_run(self.run_id, "interrupted")
            raise
        self.db.finish_run(self.run_id, status)
        return tuned

    def _replay(self) -> tuple[Config | None, bool]:
        """Read what earlier runs tried, so as not to try it again. Returns the winner known for this layer or one like
        it on this chip, if it is valid here, and whether it is this layer's own."""
        for trial in self.db.past_trials(self.where.device, self.layer.key, self.layer.template_version):
            self.tried[Config(trial.config)] = trial
        answer = self.db.lookup(self.where.device, self.layer.key, self.layer.template_version)
        winner = answer.winner
        config = Config(winner.config) if winner else None
        valid = config is not None and self.space.broken(config) is None
        return (config if valid else None), answer.measured_here

    def _start(self, isolated: Config) -> None:
        """Prove and time a first best, then let the others that promise much challenge it. Raises TuneError."""
        firsts = [isolated, self.known, self.space.default]
        if self.leader is not None:
            own = {ATTENTION: self.alone[ATTENTION][0]} if ATTENTION in self.alone else {}
            firsts = [self._with(own, self.leader), self.leader, self.known]
        chosen = [c for c in dict.fromkeys(firsts) if c is not None and self._may_win(c)]
        compiled_of = self.judge.compile_shared(chosen)
        self.judge.await_drawing()
        self.judge.open()
        for config in chosen:
            if self.best is not None and config in self.tried and config != self.known:
                continue
            compiled = compiled_of(config)
            if self.best is not None:
                self._challenge(config, compiled)
                continue
            trial = self.judge.trial(config, compiled, partial(self.judge.ask, "measure", dict(config), FIRST_SAMPLES))
            if trial.measurement is not None:
                self._take_over(config, trial.measurement.median_ns)
                self._prove(config, trial.error)
            self._record(trial)
            if self.best is not None:
                self._keep_best_so_far()
        self.judge.close()
        if self.best is None:
            raise TuneError(
                f"{self.layer.key}: neither the winners of its parts nor the defaults work; "
                "autotune db list --runs shows the run"
            )

    def _may_win(self, config: Config) -> bool:
        """Valid, and beyond attention what the leader has."""
        if self.space.broken(config) is not None:
            return False
        return self.leader is None or all(
            config[name] == value for name, value in self.leader.items() if not name.startswith(f"{ATTENTION}_")
        )

    def _descend(self, kernels: Sequence[str], stop: float | None) -> bool:
        """Change the best while that pays; whether `stop` came first."""
        # What did best alone comes first: its kernels are in the cache. Then what all kernels must agree about.
        for moves in (self._best_alone(kernels), self.moves.switches(kernels)):
            if self._sweep(deque(moves), stop, follow=False):
                return True
        idle = passes = 0
        while kernels and idle < (IDLE_PASSES if stop is None else MOST_PASSES):
            before, known = self.best, len(self.tried)
            if self._sweep(deque(self._pass(kernels, passes)), stop):
                return True
            passes += 1
            idle = idle + 1 if self.best == before else 0
            if passes > IDLE_PASSES and len(self.tried) == known:
                return False  # it draws nothing new any more
        return False

    def _pass(self, kernels: Sequence[str], passes: int) -> list[Move]:
        """Single steps; later, what promises most of each kernel, more of those that compile quickly."""
        assert self.best is not None
        moves = list(self.moves.steps(self.best, kernels))
        if passes:
            moves += self.moves.mixtures(self.times, kernels)
            mean = {k: seconds / count for k, (seconds, count) in self.compiling.items()}
            for kernel in kernels:
                share = min(mean.values(), default=1.0) / mean.get(kernel, 1.0)
                count = max(2, round(DRAWS * min(1.0, share)))
                moves += self.moves.promising(self.best, kernel, self.times[kernel], count)
            moves += self.moves.switches(kernels)
        return moves

    def _best_alone(self, kernels: Sequence[str]) -> list[Move]:
        moves = []
        for prefix, configs in self.alone.items():
            for config in configs:
                own = {f"{prefix}_{n}": v for n, v in config.items() if f"{prefix}_{n}" in self.space.default}
                if own and all(kernel_of(name) in kernels for name in own):
                    moves.append(Move(Config(own)))
        return moves

    def _sweep(self, waiting: deque[Move], stop: float | None, follow: bool = True) -> bool:
        """Try these moves, and if they are to `follow` gains, the steps from there; whether `stop` came first.
        Compilers work ahead: a kernel fits whatever the other kernels have become meanwhile."""
        last = None if stop is None else stop - LEAD_S
        while waiting or self.judge.compiling:
            if stop is not None and time.monotonic() >= stop:
                return True
            if last is None or time.monotonic() < last:
                self._compile_ahead(waiting)
            else:
                waiting.clear()  # would be compiled too late
                self._look_ahead()
                if not self.judge.compiling:
                    return True
            for (move, compiled_for), compiled in self.judge.compiled(0.5):
                if stop is not None and time.monotonic() >= stop:
                    return True
                config = self._moved(move)
                if config in self.tried or not self._may_win(config):
                    continue
                touched = {kernel_of(name) for name in move.changes}
                if touched & set(self.moves.changed(config, compiled_for)):
                    waiting.appendleft(move)  # the rest of its kernel has changed since: it is another one
                elif self._challenge(config, compiled) and follow:  # a gain: go on from there first
                    assert self.best is not None
                    waiting.extendleft(m for m in self.moves.steps(self.best, touched) if m != move)
                self._compile_ahead(waiting)
        return False

    def _compile_ahead(self, waiting: deque[Move]) -> None:
        for _ in range(self.crew.room(QUEUED)):
            while waiting:
                move = waiting.popleft()
                config = self._moved(move)
                if config not in self.tried and config not in self.proposed and self._may_win(config):
                    self.proposed.add(config)
                    self.judge.compile(config, (move, config), base=self.best)
                    break

    def _look_ahead(self) -> None:
        if self.after is not None and self.best is not None:
            after, self.after = self.after, None
            after(self.best)

    def _moved(self, move: Move) -> Config:
        assert self.best is not None
        return Config({**self.best, **move.changes})

    def firsts(self, leader: Config | None) -> list[Config]:
        """Where a search would start, and the single steps from there: worth compiling before its turn comes."""
        start = self._isolated()
        if leader is not None:
            start = self._with({ATTENTION: self.alone[ATTENTION][0]} if ATTENTION in self.alone else {}, leader)
        if self.space.broken(start) is not None:
            return []
        steps = neighbours(self.space, start)
        if leader is not None:
            steps = (c for c in steps if self.moves.changed(c, start) == [ATTENTION])
        return [start, *steps]

    def _isolated(self) -> Config:
        return self._with({prefix: configs[0] for prefix, configs in self.alone.items()}, self.space.default)

    def _with(self, blocks: Mapping[str, Config], base: Mapping[str, Any] | None) -> Config:
        """`base` with parts replaced by their own configurations; a layer may leave out parameters of a part."""
        assert base is not None
        values = dict(base)
        for prefix, config in blocks.items():
            values |= {f"{prefix}_{n}": v for n, v in config.items() if f"{prefix}_{n}" in values}
        return Config(values)

    def _prove(self, config: Config, error: float | None) -> None:
        for kernel in self.moves.kernels:
            self.proved[kernel].setdefault(self.moves.block(kernel, config), error or 0.0)

    def _is_proved(self, config: Config) -> bool:
        return all(self.moves.block(kernel, config) in blocks for kernel, blocks in self.proved.items())

    def _challenge(self, config: Config, compiled: Answer) -> bool:
        """Time a configuration in turn with the best; whether it is the best now."""
        champion = self.best
        assert champion is not None
        verify, theirs = not self._is_proved(config), [math.inf]

        def duel() -> tuple:
            reply = self.judge.ask("duel", dict(config), dict(champion), DUEL_ROUNDS, verify)
            if reply[0] != "duel":
                return reply
            theirs[0] = reply[2].median_ns
            # What is made of parts proved before is not proved again until it may win: no error then.
            return ("ok", reply[1], None if math.isnan(reply[3]) else reply[3])

        trial = self.judge.trial(config, compiled, duel)
        won, ns = False, math.inf if trial.measurement is None else trial.measurement.median_ns
        changed = self.moves.changed(config, champion)
        if trial.measurement is None:
            self._learn(changed, config, math.inf, None)
        else:
            ratio = ns / theirs[0]
            won = ratio < GAIN
            trial = replace(trial, message=f"{'took over' if won else 'stayed behind'}: {ratio:.4f} of the best's time")
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

    def _decide(self, isolated: Config) -> TunedLayer:
        """Prove and time the best, what won alone and the default against each other; the fastest is recorded."""
        assert self.best is not None
        finalists = (*reversed(self.champions), isolated, self.space.default)
        entries = [c for c in dict.fromkeys(finalists) if self._works(c)]
        try:
            measurements, errors, rate = self.judge.rematch(entries, FINAL_ROUNDS)
        except TuneError:  # the combination is wrong, or the default is: see what still stands
            self._drop_wrong(entries)
            entries = [c for c in entries if self.tried[c].measurement is not None]
            if not any(self._may_win(c) for c in entries):
                raise
            measurements, errors, rate = self.judge.rematch(entries, FINAL_ROUNDS)
        found: dict[Config, tuple[Measurement, float]] = dict(
            zip(entries, zip(measurements, errors, strict=True), strict=True)
        )
        won = min((c for c in found if self._may_win(c)), key=lambda c: found[c][0].median_ns)
        ids = {}
        for config, (measurement, error) in found.items():
            trial = Trial(dict(config), Outcome.OK, measurement, None, error, self.judge.tolerance, "rematch")
            ids[config] = self.db.record_trial(self.run_id, trial)
            self.tried.setdefault(config, trial)
        times = {c: m.median_ns for c, (m, _) in found.items()}
        self._set_winner(won, *found[won], times.get(self.space.default), ids[won])
        gb_s = self.work.bytes / times[won]
        return TunedLayer(
            self.layer, won, times.get(self.space.default, math.nan), times.get(isolated, math.nan), times[won], gb_s,
            gb_s * 1e9 / rate, len(self.tried), sum(t.measurement is None for t in self.tried.values()),
            "searched" if self.fresh > 1 else "known",
        )  # fmt: skip

    def _works(self, config: Config) -> bool:
        """Valid, and not known to fail."""
        trial = self.tried.get(config)
        return self.space.broken(config) is None and (trial is None or trial.measurement is not None)

    def _drop_wrong(self, entries: Sequence[Config]) -> None:
        """Prove each entry by itself, and record what fails, so that it is not chosen."""
        for config in entries:
            measure = partial(self.judge.ask, "measure", dict(config), FIRST_SAMPLES)
            trial = self.judge.trial(config, ("compiled", None), measure)
            self.db.record_trial(self.run_id, trial)
            self.tried[config] = trial

    def _set_winner(
        self, config: Config, measured: Measurement, error: float, default_ns: float | None, trial_id: int | None
    ) -> None:
        winner = Winner(
            self.layer.key, self.layer.template_version, dict(config), measured, default_ns, error,
            self.judge.tolerance, judging.reference(self.layer, self.seed), versions(),
        )  # fmt: skip
        self.db.set_winner(self.where.device, winner, self.run_id, trial_id)

    def _keep_best_so_far(self) -> None:
        """Whatever happens next, the layer has a winner: the best so far, unless an earlier run has left one."""
        trial = None if self.best is None else self.tried.get(self.best)
        if self.best is None or trial is None or trial.measurement is None or self.had_winner or self.best in self.kept:
            return
        default = self.tried.get(self.space.default)
        default_ns = default.measurement.median_ns if default and default.measurement else None
        error = max(blocks.get(self.moves.block(k, self.best), 0.0) for k, blocks in self.proved.items())
        self._set_winner(self.best, trial.measurement, error, default_ns, None)
        self.kept.add(self.best)
