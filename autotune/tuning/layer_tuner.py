"""Tunes a layer in context: which configuration is fastest in the captured layer, chained as the decoder chains it.

What wins alone need not win between its neighbours (docs/log.md). Starting from the parts' own winners, one kernel
after the other is changed: by single steps from the incumbent, then to what did best alone. A change is kept when it is
faster in samples taken in turn.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autotune.runner.protocol import Compiled, Measured, PairCompared, Reply
from autotune.runner.worker_pool import Answer
from autotune.samplers.study import grid_size, neighbours
from autotune.tuning import candidate_runner
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.neighborhood import DRAWS, Incumbent, Move, Neighborhood
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import SAMPLES, Session, Tuned, Tuner, past_trials
from autotune.tuning.verdict import DEFAULT
from kernel_templates.problem import Chain, Problem
from kernel_templates.space import Config
from tuning_db import TuningDB
from tuning_db.records import Measurement, Outcome, Trial

SAMPLER = "chain"  # as runs of layers are stored
BEST_FEW = 6  # of a part alone, its default among them
PAIR_ROUNDS = 15
GAIN = 0.997  # of the incumbent's time: less than this difference is not told from chance
FINAL_ROUNDS = 21
FINAL_SHARE, FINAL_S = 0.15, 1.5  # of the time, and at most, kept for the final comparison
LEAD_S = 1.5  # before that, so long, compilers work for the next layer
QUEUED = 4  # jobs that wait for a compiler
MOST_PASSES = 1000
IDLE_PASSES = 2  # over all kernels without a gain, after which a search without a budget ends


def best_alone(db: TuningDB, target: TuneTarget, problem: Problem, count: int) -> list[Config]:
    """A part's fastest configurations that were proved alone on this very device, its default always among them.

    A final comparison counts more than the trial before it: it was taken beside its rivals.
    """
    space = target.space(problem)
    times: dict[Config, float] = {}
    for trial in past_trials(db, target.device, problem, space):
        config = Config(trial.config)
        score = target.objective.of(trial.measurement)
        if trial.outcome is Outcome.OK and score is not None and space.broken(config) is None:
            times[config] = score
    ranked = sorted(times, key=times.__getitem__)
    if space.default in ranked[:count]:
        return ranked[:count]
    return [*ranked[: count - 1], space.default]


class LayerTuner(Tuner):
    """One layer's search: its incumbent, what may replace it, and its run in the database."""

    stage = 2

    def __init__(self, layer: Chain, session: Session, position: tuple[int, int]):
        super().__init__(layer, session, position)
        self.trials, parts = None, layer.parts()
        spaces = {part: self.target.space(problem) for part, problem in parts.items()}
        self.neighborhood = Neighborhood(self.space, spaces, self.settings.seed)
        self._alone = {part: best_alone(self.db, self.target, p, BEST_FEW) for part, p in parts.items()}
        # Of layers that differ in their context, all but these parts are the same.
        self._of_context = {part for part, problem in parts.items() if problem.without_context != problem}
        self._incumbent = Incumbent(self.neighborhood)
        self._sibling: Config | None = None
        self._proposed: set[Config] = set()
        self._mixtures: deque[Move] = deque()
        self._after: Callable[[Config], None] | None = None

    def run(
        self, until: float | None, sibling: Config | None, after: Callable[[Config], None] = lambda best: None
    ) -> Tuned:
        """Search until the clock says `until` or nothing improves, then decide. sibling: the winner of a layer that
        differs in context only; what does not depend on the context is taken from it, for weights are packed once.
        after: called with the best once compilers have nothing to do here."""
        self._sibling, self._after = sibling, after
        stop = None if until is None else until - min(FINAL_S, FINAL_SHARE * max(0.0, until - time.monotonic()))
        with self.recorded(SAMPLER, grid_size(self.space)):
            self._start(isolated := self.isolated())
            kernels = self.neighborhood.kernels if sibling is None else self.neighborhood.kernels_of(self._of_context)
            if self._descend(kernels, stop):
                self.status = "budget"
            self.runner.close()  # what is still compiling is not waited for
            self._look_ahead()
            tuned = self._finish(isolated)
            self.runner.forget()
        return tuned

    def firsts(self, sibling: Config | None) -> list[Config]:
        """Where a search would start, and the single steps from there: worth compiling before its turn comes."""
        start = self.isolated() if sibling is None else self._with(self._own_of_context(), sibling)
        if self.space.broken(start) is not None:
            return []
        steps = neighbours(self.space, start)
        if sibling is not None:
            mine = self.neighborhood.kernels_of(self._of_context)
            steps = (config for config in steps if set(self.neighborhood.changed(config, start)) <= set(mine))
        return [start, *steps]

    def best_config(self) -> Config | None:
        return self._incumbent.config

    def best_of_run(self) -> Config | None:
        return self._incumbent.config  # it was verified and timed by this run, whatever earlier ones knew

    def best_ns(self, best: Config) -> float | None:
        return self._incumbent.median_ns

    def _error_of(self, trial: Trial) -> float:
        return self._incumbent.error(Config(trial.config))

    def _start(self, isolated: Config) -> None:
        """Verify and time a first incumbent, then compare it with the others that promise much. Raises TuneError."""
        firsts = [isolated, self.standing, self.space.default]
        if self._sibling is not None:
            firsts = [self._with(self._own_of_context(), self._sibling), self._sibling, self.standing]
        chosen = [c for c in dict.fromkeys(firsts) if c is not None and self._may_win(c)]
        compiled_of = self.runner.compile_shared(chosen)
        self.runner.await_inputs()
        self.runner.open()
        for config in chosen:
            if self._incumbent.config is None:
                self._first(config, compiled_of(config))
            elif config not in self.tried or config == self.standing:
                self._challenge(config, compiled_of(config))
        self.runner.close()
        if self._incumbent.config is None:
            raise TuneError(
                f"{self.problem.key}: neither the winners of its parts nor the defaults work; "
                "autotune db list --runs shows the run"
            )

    def _first(self, config: Config, compiled: Answer) -> None:
        """Verify and time a configuration while there is no incumbent; if it works, it is."""
        trial = self.runner.trial(config, compiled, lambda: self.runner.measure(config, SAMPLES))
        if trial.measurement is not None:
            self._incumbent.replace(config, trial.measurement.median_ns)
            self._incumbent.verified(config, trial.error)
        self.record(trial)
        self.keep_best_so_far()

    def _challenge(self, config: Config, compiled: Answer) -> bool:
        """Time a configuration in turn with the incumbent; whether it is the incumbent now."""
        incumbent = self._incumbent.config
        assert incumbent is not None
        theirs = math.inf

        def compare() -> Reply:
            nonlocal theirs
            # What is made of kernels verified before is not verified again until it may win.
            reply = self.runner.compare_pair(config, incumbent, PAIR_ROUNDS, not self._incumbent.is_verified(config))
            if not isinstance(reply, PairCompared):
                return reply
            theirs = self._score(reply.incumbent)
            return Measured(reply.measurement, reply.error)

        trial = self.runner.trial(config, compiled, compare)
        changed = self.neighborhood.changed(config, incumbent)
        measured = trial.measurement
        if measured is None:
            self._incumbent.compared(changed, config, math.inf, None)
            self.record(trial)
            return False
        ratio = self._score(measured) / theirs
        won = ratio < GAIN
        how = f"{'took over' if won else 'stayed behind'}: {ratio:.4f} of the best's {self.target.objective}"
        self._incumbent.verified(config, trial.error)
        self._incumbent.compared(changed, config, ratio, trial.compile_s)
        if won:
            self._incumbent.replace(config, measured.median_ns, ratio)
        self.record(replace(trial, message=how))
        return won

    def _score(self, measurement: Measurement | None) -> float:
        found = self.score(measurement)
        return math.inf if found is None else found

    def _finish(self, isolated: Config) -> Tuned:
        """Verify and time the best, what won alone and the default against each other; the fastest is recorded. A
        combination of verified kernels may be wrong all the same, and so may the default."""
        finalists = (*reversed(self._incumbent.last), isolated, self.space.default)
        entries = [c for c in dict.fromkeys(finalists) if self.space.broken(c) is None]
        tuned, times = self.compare_finalists(entries, FINAL_ROUNDS, self._may_win, self._untuned())
        return replace(tuned, isolated_ns=times.get(isolated, math.nan))

    def _untuned(self) -> dict[Config, str]:
        """Beside a sibling, the default of what depends on the context: the default itself may pack its weights
        otherwise, and they are packed once."""
        if self._sibling is None:
            return {}
        own = {p.name: p.default for p in self.space.parameters if p.part in self._of_context}
        config = Config({**self._sibling, **own})
        return {config: f"sibling's with its own parts' {DEFAULT}"} if self._may_win(config) else {}

    def _may_win(self, config: Config) -> bool:
        """Valid, and like the sibling in all that does not depend on the context."""
        if self.space.broken(config) is not None:
            return False
        alike = (p.name for p in self.space.parameters if p.part not in self._of_context)
        return self._sibling is None or all(config[name] == self._sibling[name] for name in alike)

    def _descend(self, kernels: Sequence[str], stop: float | None) -> bool:
        """Change the incumbent while that pays; whether `stop` came first."""
        # What did best alone comes first: its kernels are in the cache. Then what all kernels must agree about.
        for moves in (self._best_alone(kernels), self.neighborhood.switches(kernels)):
            if self._sweep(deque(moves), kernels, stop, follow=False):
                return True
        candidate_runner.stop_warming(self.worker_pool)  # what it had left comes now, the most promising first
        idle = passes = 0
        while kernels and idle < (IDLE_PASSES if stop is None else MOST_PASSES):
            before, known = self._incumbent.config, len(self.tried)
            if self._sweep(deque(self._pass(kernels, passes)), kernels, stop):
                return True
            passes += 1
            idle = idle + 1 if self._incumbent.config == before else 0
            if passes > IDLE_PASSES and len(self.tried) == known:
                return False  # it draws nothing new any more
        return False

    def _pass(self, kernels: Sequence[str], passes: int) -> list[Move]:
        """Single steps; later, what promises most of each kernel, more of those that compile quickly."""
        best, times = self._best, self._incumbent.times
        moves = list(self.neighborhood.steps(best, kernels))
        if passes:
            moves += self.neighborhood.mixtures(times, kernels)
            mean = self._incumbent.mean_compile_s
            for kernel in kernels:
                share = min(mean.values(), default=1.0) / mean.get(kernel, 1.0)
                count = max(2, round(DRAWS * min(1.0, share)))
                moves += self.neighborhood.promising(best, kernel, times[kernel], count)
            moves += self.neighborhood.switches(kernels)
        return moves

    def _best_alone(self, kernels: Sequence[str]) -> list[Move]:
        moves = []
        for part, configs in self._alone.items():
            own = [p for p in self.space.parameters if p.part == part]
            if own and all(p.owner in kernels for p in own):
                moves += [Move(Config({p.name: config[p.name_in_part] for p in own})) for config in configs]
        return moves

    def _sweep(self, waiting: deque[Move], kernels: Sequence[str], stop: float | None, follow: bool = True) -> bool:
        """Try these moves, and if they are to `follow` gains, the steps from there; whether `stop` came first.
        Compilers work ahead: a kernel fits whatever the other kernels have become meanwhile."""
        last = None if stop is None else stop - LEAD_S
        while waiting or self.runner.compiling:
            if stop is not None and time.monotonic() >= stop:
                return True
            if last is None or time.monotonic() < last:
                self._compile_ahead(waiting)
            else:
                waiting.clear()  # would be compiled too late
                self._look_ahead()
                if not self.runner.compiling:
                    return True
            done = self.runner.compiled(0.0)
            if not done and not self._compare_mixture(kernels):
                done = self.runner.compiled(0.5)
            for (move, compiled_for), compiled in done:
                if stop is not None and time.monotonic() >= stop:
                    return True
                config = self._moved(move)
                if config in self.tried or not self._may_win(config):
                    continue
                touched = self.neighborhood.touched(move.changes)
                if touched & set(self.neighborhood.changed(config, compiled_for)):
                    waiting.appendleft(move)  # the rest of its kernel has changed since: it is another one
                elif self._challenge(config, compiled) and follow:  # a gain: go on from there first
                    waiting.extendleft(m for m in self.neighborhood.steps(self._best, touched) if m != move)
                self._compile_ahead(waiting)
        return False

    def _compare_mixture(self, kernels: Sequence[str]) -> bool:
        """Try kernels together that are compiled and were tried one by one, which the measurer has time for while all
        compilers are busy; whether there was anything new of that kind."""
        own = [kernel for kernel in kernels if kernel]  # what belongs to no kernel may change several of them
        self._mixtures = self._mixtures or deque(self.neighborhood.mixtures(self._incumbent.times, own))
        while self._mixtures:
            config = self._moved(self._mixtures.popleft())
            if config not in self.tried and config not in self._proposed and self._may_win(config):
                self._challenge(config, Compiled(0.0))
                return True
        return False

    def _compile_ahead(self, waiting: deque[Move]) -> None:
        for _ in range(self.worker_pool.free_slots(QUEUED)):
            while waiting:
                move = waiting.popleft()
                config = self._moved(move)
                if config not in self.tried and config not in self._proposed and self._may_win(config):
                    self._proposed.add(config)
                    self.runner.compile(config, (move, config), base=self._best)
                    break

    def _look_ahead(self) -> None:
        if self._after is not None and self._incumbent.config is not None:
            after, self._after = self._after, None
            after(self._incumbent.config)

    @property
    def _best(self) -> Config:
        assert self._incumbent.config is not None
        return self._incumbent.config

    def _moved(self, move: Move) -> Config:
        return Config({**self._best, **move.changes})

    def isolated(self) -> Config:
        """Made of what won alone."""
        return self._with({part: configs[0] for part, configs in self._alone.items()}, self.space.default)

    def _own_of_context(self) -> dict[str, Config]:
        return {part: self._alone[part][0] for part in self._of_context}

    def _with(self, blocks: Mapping[str, Config], base: Config) -> Config:
        """`base` with parts replaced by their own configurations; a layer may leave out parameters of a part."""
        own = (p for p in self.space.parameters if p.part in blocks)
        return Config({**base, **{p.name: blocks[p.part][p.name_in_part] for p in own}})
