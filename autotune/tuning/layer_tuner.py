"""One layer's search in context: from the best known to a better one, until its time is over."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.runner.versions import versions
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.samplers.study import grid_size, neighbours
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.incumbent import ATTENTION, Incumbent, TunedLayer
from autotune.tuning.neighborhood import DRAWS, Move, Moves, kernel_of
from autotune.tuning.target import TuneTarget
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB
from tuning_db.records import Outcome, Run

BEST_FEW = 6  # of a part alone, its default among them
FINAL_SHARE, FINAL_S = 0.15, 1.5  # of the time, and at most, kept for the last comparison
LEAD_S = 1.5  # before that, so long, compilers work for the next layer
QUEUED = 4  # jobs that wait for a compiler
MOST_PASSES = 1000
IDLE_PASSES = 2  # over all kernels without a gain, after which a search without a budget ends


def best_alone(db: TuningDB, where: TuneTarget, problem: Problem, count: int) -> list[Config]:
    """A part's fastest configurations that were proved alone on this very device, its default always among them.

    A rematch's measurement counts more than the one before it: it was taken beside its rivals.
    """
    space = where.space(problem)
    times: dict[Config, float] = {}
    for trial in db.past_trials(where.device, problem.key, problem.template_version):
        config = Config(trial.config)
        score = where.objective.of(trial.measurement)
        if trial.outcome is Outcome.OK and score is not None and space.broken(config) is None:
            times[config] = score
    ranked = sorted(times, key=times.__getitem__)
    if space.default in ranked[:count]:
        return ranked[:count]
    return [*ranked[: count - 1], space.default]


class LayerSearch:
    """One layer's search: its champion, what may challenge it, and its run in the database."""

    def __init__(self, layer: Any, db: TuningDB, where: TuneTarget, crew: WorkerPool, seed: int, index, report):
        self.layer, self.db, self.where, self.crew, self.seed = layer, db, where, crew, seed
        self.space: Space = where.space(layer)
        self.parts: dict[str, Problem] = layer.parts()
        self.moves = Moves(self.space, {prefix: where.space(part) for prefix, part in self.parts.items()}, seed)
        self.alone = {prefix: best_alone(db, where, part, BEST_FEW) for prefix, part in self.parts.items()}
        self.champion = Incumbent(layer, db, where, crew, seed, self.moves, index, report)
        self.judge = self.champion.judge
        self.proposed: set[Config] = set()
        self.after: Callable[[Config], None] | None = None

    def run(
        self, until: float | None, leader: Config | None, after: Callable[[Config], None] = lambda best: None
    ) -> TunedLayer:
        """Search until the clock says `until` or nothing improves, then decide. leader: the winner of a layer that
        differs in context only; all but attention's parameters are taken from it, for weights are packed once. after:
        called with the best once compilers have nothing to do here."""
        self.champion.leader, self.after = leader, after
        status, now = "finished", time.monotonic()
        stop = None if until is None else until - min(FINAL_S, FINAL_SHARE * max(0.0, until - now))
        self.crew.withdraw(candidate_runner.WARMING)
        run = Run(
            self.layer.key, self.layer.template_version, "chain", self.seed,
            candidate_runner.space_size(grid_size(self.space)),
            self.champion.work.bytes, self.champion.work.ops, versions(), self.where.objective,
        )  # fmt: skip
        self.champion.run_id = self.db.begin_run(self.where.device, run, self.space)
        try:
            isolated = self._isolated()
            self._start(isolated)
            if self._descend([k for k in self.moves.kernels if leader is None or k == ATTENTION], stop):
                status = "budget"
            self.judge.close()  # what is still compiling, nobody waits for
            self._look_ahead()
            tuned = self.champion.decide(isolated)
            self.judge.forget()
        except (WorkerDied, WorkerTimedOut) as gone:
            self.champion.keep_best_so_far()
            self.db.finish_run(self.champion.run_id, "interrupted")
            raise TuneError(f"{self.layer.key}: {gone}") from gone
        except BaseException:
            self.champion.keep_best_so_far()
            self.db.finish_run(self.champion.run_id, "interrupted")
            raise
        self.db.finish_run(self.champion.run_id, status)
        return tuned

    def _start(self, isolated: Config) -> None:
        """Prove and time a first best, then let the others that promise much challenge it. Raises TuneError."""
        firsts = [isolated, self.champion.known, self.space.default]
        if self.champion.leader is not None:
            own = {ATTENTION: self.alone[ATTENTION][0]} if ATTENTION in self.alone else {}
            firsts = [self._with(own, self.champion.leader), self.champion.leader, self.champion.known]
        chosen = [c for c in dict.fromkeys(firsts) if c is not None and self.champion.may_win(c)]
        compiled_of = self.judge.compile_shared(chosen)
        self.judge.await_drawing()
        self.judge.open()
        for config in chosen:
            if self.champion.best is not None and config in self.champion.tried and config != self.champion.known:
                continue
            compiled = compiled_of(config)
            if self.champion.best is None:
                self.champion.first(config, compiled)
            else:
                self.champion.challenge(config, compiled)
        self.judge.close()
        if self.champion.best is None:
            raise TuneError(
                f"{self.layer.key}: neither the winners of its parts nor the defaults work; "
                "autotune db list --runs shows the run"
            )

    def _descend(self, kernels: Sequence[str], stop: float | None) -> bool:
        """Change the best while that pays; whether `stop` came first."""
        # What did best alone comes first: its kernels are in the cache. Then what all kernels must agree about.
        for moves in (self._best_alone(kernels), self.moves.switches(kernels)):
            if self._sweep(deque(moves), stop, follow=False):
                return True
        idle = passes = 0
        while kernels and idle < (IDLE_PASSES if stop is None else MOST_PASSES):
            before, known = self.champion.best, len(self.champion.tried)
            if self._sweep(deque(self._pass(kernels, passes)), stop):
                return True
            passes += 1
            idle = idle + 1 if self.champion.best == before else 0
            if passes > IDLE_PASSES and len(self.champion.tried) == known:
                return False  # it draws nothing new any more
        return False

    def _pass(self, kernels: Sequence[str], passes: int) -> list[Move]:
        """Single steps; later, what promises most of each kernel, more of those that compile quickly."""
        assert self.champion.best is not None
        moves = list(self.moves.steps(self.champion.best, kernels))
        if passes:
            moves += self.moves.mixtures(self.champion.times, kernels)
            mean = {k: seconds / count for k, (seconds, count) in self.champion.compiling.items()}
            for kernel in kernels:
                share = min(mean.values(), default=1.0) / mean.get(kernel, 1.0)
                count = max(2, round(DRAWS * min(1.0, share)))
                moves += self.moves.promising(self.champion.best, kernel, self.champion.times[kernel], count)
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
                if config in self.champion.tried or not self.champion.may_win(config):
                    continue
                touched = {kernel_of(name) for name in move.changes}
                if touched & set(self.moves.changed(config, compiled_for)):
                    waiting.appendleft(move)  # the rest of its kernel has changed since: it is another one
                elif self.champion.challenge(config, compiled) and follow:  # a gain: go on from there first
                    assert self.champion.best is not None
                    waiting.extendleft(m for m in self.moves.steps(self.champion.best, touched) if m != move)
                self._compile_ahead(waiting)
        return False

    def _compile_ahead(self, waiting: deque[Move]) -> None:
        for _ in range(self.crew.room(QUEUED)):
            while waiting:
                move = waiting.popleft()
                config = self._moved(move)
                if config not in self.champion.tried and config not in self.proposed and self.champion.may_win(config):
                    self.proposed.add(config)
                    self.judge.compile(config, (move, config), base=self.champion.best)
                    break

    def _look_ahead(self) -> None:
        if self.after is not None and self.champion.best is not None:
            after, self.after = self.after, None
            after(self.champion.best)

    def _moved(self, move: Move) -> Config:
        assert self.champion.best is not None
        return Config({**self.champion.best, **move.changes})

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
