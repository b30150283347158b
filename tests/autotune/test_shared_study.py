"""A shared study on a real PostgreSQL: workers that die, nothing lost, nothing done twice; and on an SQLite file."""

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable

import optuna
import postgres
import pytest
import shared_worker
from forked import Forked
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import OptunaError
from optuna.trial import TrialState, create_trial
from waiting import eventually

from autotune.samplers.shared_search import GIVEN_UP, LIVING, Shared, SharedSearch
from autotune.samplers.study import Search
from kernel_templates.space import Config


@pytest.fixture(scope="module")
def server():
    if postgres.programs() is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
    with postgres.server() as url:
        yield url


def best_alone(trials, sampler="exhaustive", seed=0):
    """What one worker finds on the record without a server."""
    search, times = Search(shared_worker.SPACE, sampler, seed), {}
    while len(times) < trials and (config := search.ask()) is not None:
        times[config] = shared_worker.seconds(config)
        search.tell(config, times[config])
    return min((c for c in times if times[c]), key=lambda c: (times[c], c.key))


def check(url, name, trials):
    """None lost, none run twice to completion; and the best of them."""
    shared = Shared(url)
    try:
        found = shared.study(name).get_trials(deepcopy=False)
    finally:
        shared.close()
    living = [t for t in found if t.state in LIVING]
    assert Counter(t.state.name for t in living).keys() <= {"COMPLETE", "PRUNED"}, "a trial was left behind"
    assert len(living) == trials
    assert max(Counter(Config(t.params) for t in living).values()) == 1
    for trial in living:
        assert trial.value == shared_worker.seconds(Config(trial.params))
    dead = [t for t in found if t.state is TrialState.FAIL and GIVEN_UP not in t.user_attrs]
    assert {Config(t.params) for t in dead} <= {Config(t.params) for t in living}
    done = [t for t in living if t.state is TrialState.COMPLETE]
    return Config(min(done, key=lambda t: (t.value, Config(t.params).key)).params), len(dead)


def work_together(url, name, workers, trials, folder, kill=0, sampler="random", pause=0.0):
    """Seconds from the first trial done to the last."""
    logs = [folder / f"{name}-{i}" for i in range(workers)]
    running = [Forked(shared_worker.work, url, name, sampler, i, trials, log, pause) for i, log in enumerate(logs)]
    dice, victims = random.Random(trials), []
    deadline = time.monotonic() + 600
    ended = begun = 0.0
    while any(p.poll() is None for p in running) and time.monotonic() < deadline:
        assert all(p.poll() in (None, 0) for p in running if p not in victims)
        done = sum(log.read_text().count("\n") for log in logs if log.exists())
        begun = begun or (time.monotonic() if done else 0.0)
        ended = time.monotonic() if done < trials - kill else ended
        if len(victims) < kill and done > trials * (len(victims) + 1) / (kill + 2):
            victim = dice.choice([p for p in running if p.poll() is None])
            victim.kill()
            victims.append(victim)
        time.sleep(0.02)
    late = [p for p in running if p.poll() is None]
    for process in late:
        process.kill()
    assert not late, "workers did not come to an end"
    assert [p.wait() for p in running] == [-9 if p in victims else 0 for p in running]
    return ended - begun


def test_three_workers_one_killed(server, tmp_path) -> None:
    trials = 40
    work_together(server, "short", 3, trials, tmp_path, kill=1, pause=0.02)
    _, dead = check(server, "short", trials)
    assert dead <= 1


@pytest.mark.slow
def test_eight_workers_two_killed(server, tmp_path) -> None:
    """All of a recorded space, so that whoever is alone must find the same."""
    trials = len(shared_worker.SPACE.configs())
    assert trials == 500
    took = work_together(server, "full", 8, trials, tmp_path, kill=2)
    best, dead = check(server, "full", trials)
    assert best == best_alone(trials)
    print(f"500 trials by 8 workers, 2 of them killed: {took:.1f} s, {500 / took:.0f} trials/s, {dead} taken up again")


def test_a_trial_too_many_of_a_dead_worker_holds_nobody_up(tmp_path) -> None:
    shared = Shared(f"sqlite:///{tmp_path / 't.db'}")
    search = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "s", 1)
    first = search.ask()
    assert first is not None
    other = next(c for c in shared_worker.SPACE.configs() if c != first)
    distributions = {p.name: CategoricalDistribution(p.values) for p in shared_worker.SPACE.parameters}
    dead = create_trial(state=TrialState.FAIL, params=dict(other), distributions=distributions)
    shared.study("s").add_trial(dead)
    search.tell(first, 1.0)
    assert search.ask() is None and not search.waiting
    shared.close()


def foreign(study, state, params, values=(1.0,)):
    """A trial that another program left."""
    known = {p.name: p.values for p in shared_worker.SPACE.parameters}
    distributions = {n: CategoricalDistribution(known[n] if v in known.get(n, ()) else (v,)) for n, v in params.items()}
    values = values if state is TrialState.COMPLETE else None
    study.add_trial(create_trial(state=state, params=params, distributions=distributions, values=values))


def test_configurations_that_others_tried_twice_do_not_loop(tmp_path) -> None:
    """--trials counts configurations: with one of them finished twice a worker came to no end."""
    shared = Shared(f"sqlite:///{tmp_path / 't.db'}")
    configs = shared_worker.SPACE.configs()
    study = shared.study("s")
    for config in (configs[0], configs[0], configs[0], configs[1]):
        foreign(study, TrialState.COMPLETE, dict(config))
    search, asked = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "s", 4), []
    while (config := search.ask()) is not None:
        asked.append(config)
        search.tell(config, 2.0)
    assert len(asked) == 2 and not search.waiting and not set(asked) & set(configs[:2])
    assert len(study.get_trials()) == 6
    assert search.fastest(9)[:2] == list(configs[:2]) and len(search.fastest(9)) == 4
    shared.close()


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED])
def test_trials_that_are_no_configuration_of_the_space_do_not_count(tmp_path, state) -> None:
    shared = Shared(f"sqlite:///{tmp_path / 't.db'}")
    config, study = shared_worker.SPACE.configs()[0], shared.study("s")
    name = next(iter(config))
    for params in ({"other": 1}, {}, {name: config[name]}, {**config, "other": 1}):
        foreign(study, state, params)
    search = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "s", 1)
    assert search.fastest(9) == []
    found = search.ask()
    assert found is not None and shared_worker.SPACE.broken(found) is None
    search.tell(found, 1.0)
    assert search.ask() is None and search.fastest(9) == [found]
    shared.close()


def test_a_study_of_another_space_is_one_line(tmp_path) -> None:
    shared = Shared(f"sqlite:///{tmp_path / 't.db'}")
    config = shared_worker.SPACE.configs()[0]
    foreign(shared.study("s"), TrialState.FAIL, {**config, next(iter(config)): "nonsense"})
    with pytest.raises(OptunaError, match="another space"):
        SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "s", 1).ask()
    shared.close()


@pytest.mark.parametrize("values", [(float("inf"),), (-1.0,), (0.0,)])
def test_times_that_cannot_be_are_no_times(tmp_path, values) -> None:
    shared = Shared(f"sqlite:///{tmp_path / 't.db'}")
    foreign(shared.study("s"), TrialState.COMPLETE, dict(shared_worker.SPACE.configs()[0]), values)
    search = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), shared, "s", 2)
    assert search.fastest(9) == [] and search.ask() not in (None, shared_worker.SPACE.configs()[0])
    shared.close()


def test_a_file_is_a_server_too(tmp_path) -> None:
    """And what one worker gave up is taken up by the next; a worker that was taken for dead counts no more."""
    url = f"sqlite:///{tmp_path / 't.db'}"
    one, other = Shared(url, heartbeat_s=1, grace_s=2), Shared(url, heartbeat_s=1, grace_s=60)
    a = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), one, "s", 2)
    b = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), other, "s", 2)
    first, second = a.ask(), b.ask()
    assert first and second and first != second
    assert a.ask() is None and b.ask() is None and a.waiting and b.waiting
    beats = sqlite3.connect(tmp_path / "t.db")
    assert eventually(lambda: beats.execute("SELECT count(DISTINCT trial_id) FROM trial_heartbeats").fetchone()[0] == 2)
    other.close()
    taken = []
    assert eventually(lambda: taken.append(a.ask()) or taken[-1])  # b's heart stands still
    assert taken[-1] == second
    b.tell(second, 1.0)
    a.tell(first, 2.0)
    a.tell(second, 3.0)
    assert not a.waiting and a.fastest(5) == [first, second]
    assert [t.value for t in one.study("s").get_trials() if t.state is TrialState.COMPLETE] == [2.0, 3.0]
    one.close()
    assert optuna.get_all_study_names(url) == ["s"]


def test_what_a_worker_leaves_at_its_end_is_taken_up_at_once(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 't.db'}"
    one, other = Shared(url), Shared(url)
    a = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), one, "s")
    left = [a.ask(), a.ask()]
    a.release()
    b = SharedSearch(Search(shared_worker.SPACE, "exhaustive"), other, "s")
    assert [b.ask(), b.ask()] == left and not b.waiting
    one.close(), other.close()


def begin(_: Callable[[object], None], url: str) -> None:
    Shared(url).close()


def test_workers_that_begin_at_once_on_a_new_file(tmp_path) -> None:
    """Each makes the tables, and all but one find them there."""
    url = f"sqlite:///{tmp_path / 't.db'}"
    workers = [Forked(begin, url) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
