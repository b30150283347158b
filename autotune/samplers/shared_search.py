"""One search by many workers on many machines: an Optuna study on a server, through Optuna's relational storage.

Optuna counts trials under a lock on the study, and a trial here is written whole, with its configuration, when it is
counted. So the worker with the lower number has a configuration, and all see the same: a worker that finds an
earlier living trial of its configuration gives its own up. Workers prove that they live by heartbeats; the trial of one
that has not for a while is failed by the first to notice; its configuration is taken up again before anything new.
"""

import logging
import math
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from autotune.samplers.study import Search
from kernel_templates.space import Config, Space

HEARTBEAT_S, GRACE_S = 10, 40
FRESH_S = 1.0
LIVING = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)  # pruned: it was tried, and does not work
BEGINNERS = 8  # attempts to open a server whose tables others are making
GIVEN_UP = "given up"  # user attribute of a trial that another worker had been faster with
WORKER = "worker"

logging.getLogger("alembic").setLevel(logging.ERROR)


class Shared:
    """Connection to a server: an SQLAlchemy URL, "postgresql+psycopg://..." or "sqlite:///...". Raises SQLAlchemy's and
    Optuna's errors."""

    def __init__(self, url: str, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S):
        self.grace_s = grace_s
        database = _open(url, heartbeat_s, grace_s)
        self.storage = optuna.storages.get_storage(database)
        self._database = database
        self._mine: set[int] = set()  # ids of trials of this process that run
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(heartbeat_s,), name="heartbeat", daemon=True)
        self._heart.start()

    def close(self) -> None:
        """What still runs is left to others."""
        self._closed.set()
        self._heart.join()
        self._database.engine.dispose()

    def study(self, name: str) -> optuna.Study:
        """The study of this name, which is made if missing."""
        return optuna.create_study(storage=self.storage, study_name=name, load_if_exists=True)

    def studies(self) -> list[optuna.Study]:
        """All there are."""
        return [optuna.load_study(study_name=name, storage=self.storage, sampler=optuna.samplers.RandomSampler())
                for name in optuna.get_all_study_names(self.storage)]  # fmt: skip

    def begin(self, trial_id: int) -> None:
        """Keep a trial alive from now on; one that ends before the next heartbeat needs none."""
        with self._lock:
            self._mine.add(trial_id)

    def end(self, trial_id: int) -> None:
        with self._lock:
            self._mine.discard(trial_id)

    def vouch(self, trial_id: int) -> None:
        """Start the clock of a trial whose worker may have died before its first heartbeat."""
        self._database.record_heartbeat(trial_id)

    def _beat(self, interval_s: float) -> None:
        while not self._closed.wait(interval_s):
            with self._lock:
                mine = list(self._mine)
            for trial_id in mine:
                try:
                    self._database.record_heartbeat(trial_id)
                except Exception:  # the server is away: it will be asked again, and its callers are told meanwhile
                    break


def _open(url: str, heartbeat_s: int, grace_s: int) -> RDBStorage:
    """Optuna makes its tables on an empty server; of several workers that begin at once all but one fail in that."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(BEGINNERS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats have been that since Optuna 2.5
                return RDBStorage(url, options, heartbeat_interval=heartbeat_s, grace_period=grace_s)
        except (IntegrityError, ProgrammingError, StorageInternalError, OperationalError) as error:
            away = isinstance(error, OperationalError) and "already exists" not in str(error)  # SQLite says it thus
            if away or attempt == BEGINNERS - 1:
                raise
            time.sleep(0.3)
    raise AssertionError


class SharedSearch:
    """Like a `Search`, which it asks for proposals, of a study that others work on too. One thread uses it."""

    def __init__(self, search: Search, shared: Shared, name: str, trials: int | None = None):
        """trials: of all workers together."""
        self._search, self._shared, self._trials = search, shared, trials
        self.size = search.size
        self._study = shared.study(name)
        self._study_id = shared.storage.get_study_id_from_name(name)
        self._distributions: dict[str, BaseDistribution] = {
            p.name: CategoricalDistribution(p.values) for p in search.space.parameters
        }
        self._configs: dict[int, Config | None] = {}  # by the trial's number: deciding takes longer than asking again
        self._running: dict[Config, int] = {}  # this worker's: trial ids
        self._asked: set[Config] = set()  # that the sampler has proposed here and waits to hear of
        self._heard: set[int] = set()  # numbers of finished trials that the sampler was told of
        self._vouched: set[int] = set()
        self._orphans: list[Config] = []
        self._others = False
        self._living: set[Config] = set()  # what is tried by anybody, or was, as of the last look
        self._fresh_until = 0.0  # the last look is good enough to propose by; claiming looks again
        self._look_for_dead_at = 0.0

    @property
    def space(self) -> Space:
        return self._search.space

    def suggest(self, configs: Iterable[Config]) -> None:
        self._search.suggest(configs)

    def replay(self, config: Config, seconds: float | None) -> None:
        """Tell the sampler what this worker knows from earlier; the study is not told."""
        self._search.replay(config, seconds)

    def ask(self) -> Config | None:
        """The next configuration, which no other worker tries; None when there is none now. It may be that others still
        work on some (`waiting`), and leave them."""
        while True:
            living = self._refresh() if time.monotonic() > self._fresh_until else self._living
            if self._trials is not None and len(living) >= self._trials:
                return None
            config = self._orphans.pop(0) if self._orphans else self._search.ask()
            if config is None:
                return None
            if config not in living and self._claim(config):
                return config
            self._fresh_until = 0.0

    @property
    def waiting(self) -> bool:
        """Whether others have trials running, which would have to be taken up if they died, or some wait already. When
        the trials are done without those, as when a worker died while it asked for one too many, this is False."""
        living = self._refresh()
        self._fresh_until = 0.0
        done = self._trials is not None and len(living) >= self._trials
        return self._others or (bool(self._orphans) and not done)

    def tell(self, config: Config, seconds: float | None) -> None:
        """As `Search.tell`; a result that comes after this worker was taken for dead counts here only."""
        if config in self._asked:
            self._asked.discard(config)
            self._search.tell(config, seconds)
        else:
            self._search.replay(config, seconds)
        trial_id = self._running.pop(config, None)
        if trial_id is None:
            return
        self._shared.end(trial_id)
        state, values = (TrialState.PRUNED, None) if seconds is None else (TrialState.COMPLETE, [seconds])
        with suppress(UpdateFinishedTrialError):
            self._shared.storage.set_trial_state_values(trial_id, state, values)

    def release(self) -> None:
        """Leave what this worker has begun and will not finish to the others, who need not take it for dead first. A
        server that is gone will miss the heartbeats."""
        left = list(self._running.values())
        self._running.clear()
        with suppress(OptunaError, SQLAlchemyError):
            for trial_id in left:
                self._shared.end(trial_id)
                with suppress(UpdateFinishedTrialError):
                    self._shared.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def fastest(self, count: int) -> list[Config]:
        """The fastest that anybody has found, the fastest first."""
        done = [
            (seconds, t.number, config)
            for t in self._get()
            if (seconds := _seconds(t)) is not None and (config := self._config(t)) is not None
        ]
        return list(dict.fromkeys(config for *_, config in sorted(done, key=lambda one: one[:2])))[:count]

    def publish(self, name: str, text: str) -> None:
        """Leave something for `autotune pull`."""
        self._study.set_user_attr(name, text)

    def _claim(self, config: Config) -> bool:
        """Whether this worker was the first."""
        template = create_trial(
            state=TrialState.RUNNING, params=dict(config), distributions=self._distributions,
            user_attrs={WORKER: f"{socket.gethostname()}:{os.getpid()}"},
        )  # fmt: skip
        self._asked.add(config)
        try:
            trial_id = self._shared.storage.create_new_trial(self._study_id, template)
        except ValueError:  # Optuna keeps one list of values for a parameter of a study
            raise OptunaError("another program has put trials of another space into the study") from None
        self._shared.begin(trial_id)
        trials = self._get()
        number = next(t.number for t in trials if t._trial_id == trial_id)
        before = [t for t in trials if t.number < number and t.state in LIVING]
        tried = {known for t in before if (known := self._config(t)) is not None}
        late = self._trials is not None and len(tried) >= self._trials
        if not late and config not in tried:
            self._running[config] = trial_id
            self._learn(trials)
            self._fresh_until = time.monotonic() + FRESH_S
            return True
        self._shared.end(trial_id)
        self._shared.storage.set_trial_user_attr(trial_id, GIVEN_UP, True)
        self._shared.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return False

    def _refresh(self) -> set[Config]:
        """Fail trials of the dead, and learn what has happened; what is tried by anybody, or was."""
        if time.monotonic() > self._look_for_dead_at:
            self._look_for_dead_at = time.monotonic() + self._shared.grace_s / 4
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self._study)
        return self._learn(self._get())

    def _learn(self, trials: Sequence[FrozenTrial]) -> set[Config]:
        """Tell the sampler of others' results."""
        # As many configurations as there are: others may have tried one twice, or what is none of this space.
        living = {known for t in trials if t.state in LIVING and (known := self._config(t)) is not None}
        mine = set(self._running.values())
        self._others = False
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial._trial_id not in mine:
                self._others = True
                self._watch(trial)
            elif trial.state in LIVING and trial.number not in self._heard:
                self._heard.add(trial.number)
                self._hear(trial)
        failed = [self._config(t) for t in trials if t.state is TrialState.FAIL]
        self._orphans = [c for c in dict.fromkeys(failed) if c is not None and c not in living]
        self._living = living
        return living

    def _hear(self, trial: FrozenTrial) -> None:
        config = self._config(trial)
        if config is None or config in self._running:
            return
        tell: Callable[[Config, float | None], None] = self._search.replay
        if config in self._asked:
            self._asked.discard(config)
            tell = self._search.tell
        tell(config, _seconds(trial))

    def _watch(self, trial: FrozenTrial) -> None:
        if trial._trial_id in self._vouched or trial.datetime_start is None:
            return
        if datetime.now() - trial.datetime_start > timedelta(seconds=self._shared.grace_s):
            self._vouched.add(trial._trial_id)
            self._shared.vouch(trial._trial_id)

    def _config(self, trial: FrozenTrial) -> Config | None:
        """None for a trial of another program, whose parameters are no configuration of this space."""
        if trial.number not in self._configs:
            try:
                config = Config(trial.params)
                known = config if self.space.broken(config) is None else None
            except (TypeError, ValueError):  # of a value that cannot be compared or hashed
                known = None
            if known is None and trial.state is TrialState.RUNNING:  # another program may add its parameters later
                return None
            self._configs[trial.number] = known
        return self._configs[trial.number]

    def _get(self) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def _seconds(trial: FrozenTrial) -> float | None:
    """The time of a trial that was completed; None where another program left none, or none that can be."""
    values = trial.values if trial.state is TrialState.COMPLETE else None
    seconds = values[0] if values else None
    return seconds if seconds is not None and 0 < seconds < math.inf else None
