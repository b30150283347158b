"""Several processes on one file, and processes that die in the middle of a write."""

import multiprocessing
import os
import signal
import sqlite3
import time

import pytest

from tuning_db import open_db

context = multiprocessing.get_context("fork")


def _write(path, samples, queue, least):
    with open_db(path) as db:
        device = samples.device()
        run = db.begin_run(device, samples.run())
        for count in range(least):
            trial = db.record_trial(run, samples.trial(count))
            # No other process's: what two set alike within a millisecond is one winner.
            db.set_winner(device, samples.winner(tile=(os.getpid() << 20) + count), run, trial)
    queue.put(("wrote", least, 0.0))


def _read(path, samples, queue, least):
    times = []
    while len(times) < least:
        with open_db(path, readonly=True) as db:
            for _ in range(20):
                start = time.perf_counter()
                found = db.lookup(samples.device(), samples.key, 1)
                times.append(time.perf_counter() - start)
                assert found.source.name == "EXACT", found
    queue.put(("read", len(times), sorted(times)[len(times) * 99 // 100]))


def _guarded(function, path, samples, queue, least):
    try:
        function(path, samples, queue, least)
    except BaseException as error:
        queue.put((f"{type(error).__name__}: {error}", 0, 0.0))


def together(path, samples, readers, writes, lookups):
    """Two writers and some readers on one file; seconds that 99 of 100 lookups of each reader took at most."""
    with open_db(path) as db:
        db.set_winner(samples.device(), samples.winner(), None, None)
    queue = context.SimpleQueue()
    children = [
        context.Process(target=_guarded, args=(function, path, samples, queue, least))
        for function, least in (*[(_write, writes)] * 2, *[(_read, lookups)] * readers)
    ]
    for child in children:
        child.start()
    answers = sorted(queue.get() for _ in children)
    for child in children:
        child.join()
    assert [what for what, *_ in answers] == ["read"] * readers + ["wrote"] * 2, answers
    with open_db(path, readonly=True) as db:
        assert db.info()["trials"] == db.info()["replaced_winners"] == 2 * writes and db.info()["winners"] == 1
    return max(slow for what, _, slow in answers if what == "read")


@pytest.mark.parametrize(
    ("readers", "writes"), [(3, 200), pytest.param(16, 10_000, marks=pytest.mark.slow)], ids=["short", "full"]
)
def test_readers_and_writers_together(tmp_path, samples, readers, writes):
    """Nobody hears of a lock."""
    together(tmp_path / "tuning.db", samples, readers, writes, 20 * writes)


@pytest.mark.timing
def test_lookups_beside_writers_take_5_ms(tmp_path, samples):
    p99 = together(tmp_path / "tuning.db", samples, 3, 2000, 40_000)
    print(f"lookups beside writers: p99 {p99 * 1e3:.2f} ms")
    assert p99 <= 5e-3


def _write_until_killed(path, samples, pipe):
    db = open_db(path)
    run = db.begin_run(samples.device(), samples.run())
    count = 0
    while True:
        trial = db.record_trial(run, samples.trial(count))
        count += 1
        os.write(pipe, b".")
        db.set_winner(samples.device(), samples.winner(tile=count), run, trial)


def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path, samples):
    path = tmp_path / "tuning.db"
    confirmed = 0
    for attempt in range(8):
        reader, writer = os.pipe()
        child = context.Process(target=_write_until_killed, args=(path, samples, writer))
        child.start()
        os.close(writer)
        os.read(reader, 1)
        time.sleep(0.02 + 0.017 * attempt)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        confirmed += 1
        while chunk := os.read(reader, 65536):
            confirmed += len(chunk)
        os.close(reader)
        with open_db(path, readonly=True) as db:
            # The trial in flight of each killed process may or may not have made it.
            assert confirmed <= db.info()["trials"] <= confirmed + attempt + 1
            assert db.info()["winners"] <= 1
            assert {run.status.value for run in db.runs()} == {"interrupted"}
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with open_db(path) as db:
        assert len(db.past_trials(samples.device(), samples.key, 1)) >= confirmed
