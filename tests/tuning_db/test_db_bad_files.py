"""Files that are damaged, locked, full, read-only, gone or no files at all: one clear line, and nothing lost.

Read-only cases run in a child without root's privileges, so that permission bits are the real thing; a full disk is
SQLite's own limit on the number of pages, which fails with the same SQLITE_FULL.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading

import pytest

from tuning_db import DatabaseError, connection, open_db, query_limit

BOTH = pytest.mark.parametrize("readonly", [True, False])


@pytest.fixture
def filled(tmp_path, samples):
    """A closed database of some twenty pages."""
    path = tmp_path / "tuning.db"
    fill(path, samples)
    return path


def fill(path, samples):
    with open_db(path) as db:
        run = db.begin_run(samples.device(), samples.run())
        for tile in range(150):
            trial = db.record_trial(run, samples.trial(tile))
        db.set_winner(samples.device(), samples.winner(), run, trial)
    return path


def complaint(call, path):
    """What the one allowed error says, after checking its form and that the file is as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DatabaseError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and ("--db" in text or "start the run again" in text), text
    assert before is None or path.read_bytes() == before
    return text


@BOTH
@pytest.mark.parametrize("content", [b"x", b"not a database\n" * 99, random.Random(1).randbytes(8192)])
def test_not_an_sqlite_file(tmp_path, content, readonly):
    path = tmp_path / "tuning.db"
    path.write_bytes(content)
    text = complaint(lambda: open_db(path, readonly=readonly), path)
    assert "damaged (not an SQLite file)" in text and "left untouched" in text
    assert list(tmp_path.iterdir()) == [path]


@BOTH
def test_a_directory(tmp_path, readonly):
    assert "is a directory" in complaint(lambda: open_db(tmp_path, readonly=readonly), tmp_path)


@BOTH
def test_a_pipe_does_not_block(tmp_path, readonly):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in complaint(lambda: open_db(path, readonly=readonly), path)


@BOTH
def test_a_file_where_a_directory_should_be(tmp_path, readonly):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "tuning.db"
    complaint(lambda: open_db(path, readonly=readonly), path)


def test_a_missing_file_is_an_error_only_where_it_was_named(tmp_path, monkeypatch, samples):
    path = tmp_path / "tuning.db"
    assert "there is no tuning database" in complaint(lambda: open_db(path, readonly=True), path)
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    with open_db(readonly=True) as db:
        assert not db.info()["exists"] and db.lookup(samples.device(), samples.key, 1).winner is None
        assert "is read-only" in complaint(lambda: db.remember_device(samples.device()), path)
    assert not path.exists()


def test_an_empty_file_is_an_empty_database(tmp_path):
    path = tmp_path / "tuning.db"
    path.touch()
    with open_db(path, readonly=True) as db:
        assert db.winners() == []
    assert path.stat().st_size == 0
    open_db(path).close()
    assert path.stat().st_size > 0


def test_a_truncated_file_is_refused_wherever_it_was_cut(filled):
    whole = filled.read_bytes()
    for cut in range(1, 20):
        filled.write_bytes(whole[: len(whole) * cut // 20])
        for readonly in (True, False):
            assert "is damaged" in complaint(lambda readonly=readonly: open_db(filled, readonly=readonly), filled)


def use_everything(path, samples, readonly):
    with open_db(path, readonly=readonly) as db:
        device = samples.device()
        db.lookup(device, samples.key, 1)
        db.past_trials(device, samples.key, 1)
        db.runs(), db.winners(history=True), db.best(samples.key), db.devices(), db.ceilings(device), db.info()
        if not readonly:
            db.record_trial(db.begin_run(device, samples.run()), samples.trial())


def test_flipped_bytes_give_an_answer_or_one_line_but_never_a_traceback(filled, samples):
    whole, dice = filled.read_bytes(), random.Random(2)
    refused = 0
    for attempt in range(100):
        page = dice.randrange(len(whole) // 4096) * 4096
        # Half of the hits go to the start of a page, where its structure is.
        spots = [page + dice.randrange(100 if attempt % 2 else 4096) for _ in range(3)]
        bad = bytearray(whole)
        for spot in spots:
            bad[spot] ^= 1 << dice.randrange(8)
        filled.write_bytes(bad)
        for readonly in (True, False):
            try:
                use_everything(filled, samples, readonly)
            except DatabaseError as error:
                assert "\n" not in str(error)
                refused += 1
            assert not readonly or filled.read_bytes() == bad
    assert refused > 30


def test_damage_found_on_opening_for_writing_leaves_the_file_alone(filled):
    bad = bytearray(filled.read_bytes())
    for page in range(3, len(bad) // 4096, 2):
        bad[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    filled.write_bytes(bad)
    assert "is damaged" in complaint(lambda: open_db(filled), filled)
    assert not filled.with_name("tuning.db-wal").exists() or not filled.with_name("tuning.db-wal").stat().st_size


def test_a_read_only_file_reads_and_refuses_to_write(open_directory, samples, as_ordinary_user):
    path = fill(open_directory / "tuning.db", samples)
    path.chmod(0o444)
    assert as_ordinary_user(read_source, path, samples) == "exact"
    assert "is read-only; make it" in as_ordinary_user(open_db, path)


def test_a_read_only_directory_reads_and_refuses_to_write(open_directory, samples, as_ordinary_user):
    path = fill(open_directory / "tuning.db", samples)
    path.chmod(0o666)
    open_directory.chmod(0o555)
    assert as_ordinary_user(read_source, path, samples) == "exact"
    assert "and its directory writable" in as_ordinary_user(open_db, path)
    assert "cannot be opened (Permission denied)" in as_ordinary_user(open_db, open_directory / "new" / "tuning.db")
    assert "cannot be opened" in as_ordinary_user(open_db, open_directory / "new.db")


def test_unfinished_writes_in_a_read_only_directory_are_not_ignored(open_directory, samples, as_ordinary_user):
    writer = open_db(open_directory / "original.db")
    writer.set_winner(samples.device(), samples.winner(), None, None)
    path = open_directory / "copy.db"
    path.write_bytes(writer.path.read_bytes())
    (open_directory / "copy.db-wal").write_bytes((open_directory / "original.db-wal").read_bytes())
    open_directory.chmod(0o555)
    assert "unfinished writes in copy.db-wal" in as_ordinary_user(read_source, path, samples)
    writer.close()


def test_an_unreadable_file(open_directory, samples, as_ordinary_user):
    path = fill(open_directory / "tuning.db", samples)
    path.chmod(0)
    assert "cannot be opened (Permission denied)" in as_ordinary_user(read_source, path, samples)
    assert "cannot be opened (Permission denied)" in as_ordinary_user(open_db, path)


def read_source(path, samples):
    with open_db(path, readonly=True) as db:
        return db.lookup(samples.device(), samples.key, 1).source.name.lower()


def test_reading_never_writes(filled, samples):
    with open_db(filled, readonly=True) as db:
        complaint(lambda: db.set_winner(samples.device(), samples.winner(), None, None), filled)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db._connection.execute("DELETE FROM winners")


def test_a_full_disk_keeps_what_was_recorded(filled, samples):
    with open_db(filled) as db:
        run = db.begin_run(samples.device(), samples.run())
        pages = db._connection.execute("PRAGMA page_count").fetchone()[0]
        db._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        kept = 0
        with pytest.raises(DatabaseError, match=r"no space left .* recorded so far is kept"):
            for kept in range(1000):
                db.record_trial(run, samples.trial(kept))
        assert 0 < kept < 1000
        assert len(db.trials(run)) == kept
        db._connection.execute("PRAGMA max_page_count = 100000")
        db.record_trial(run, samples.trial())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, for root."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(("umount", str(folder)), check=True)


def test_a_disk_that_is_really_full(small_disk, samples):
    path = small_disk / "tuning.db"
    kept = 0
    with open_db(path) as db:
        run = db.begin_run(samples.device(), samples.run())
        db.set_winner(samples.device(), samples.winner(), run, None)
        with pytest.raises(DatabaseError, match=r"no space left .* recorded so far is kept|cannot be used where it is"):
            for kept in range(20_000):
                db.record_trial(run, samples.trial(kept))
    with open_db(path, readonly=True) as db:
        assert kept > 100 and len(db.trials(run)) == kept
        assert db.lookup(samples.device(), samples.key, 1).source.name == "EXACT"


def test_a_lock_that_is_never_released(filled, samples, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.1)
    with open_db(filled) as db:
        other = sqlite3.connect(filled, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="stayed locked by another process"):
            db.remember_device(samples.device("new"))
        with pytest.raises(DatabaseError, match="stayed locked by another process"):
            open_db(filled)
        assert read_source(filled, samples) == "exact"
        other.execute("ROLLBACK")
        assert db.remember_device(samples.device("new")) == 2


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_vanishes_under_a_writer(filled, samples, replaced):
    db = open_db(filled)
    filled.rename(filled.with_suffix(".moved"))
    if replaced:
        filled.touch()
    assert "was moved or deleted" in complaint(lambda: db.remember_device(samples.device("new")), filled)
    db.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE winners RENAME TO w; CREATE VIEW winners AS " + ENDLESS,
        f"DROP VIEW v_trials; CREATE VIEW v_trials AS {ENDLESS}",
        f"CREATE VIEW mine AS {ENDLESS}",
        f"CREATE TRIGGER t AFTER INSERT ON runs BEGIN INSERT INTO problems (key) {ENDLESS}; END",
        f"DROP TRIGGER winners_insert; CREATE TRIGGER winners_insert AFTER INSERT ON winners BEGIN {ENDLESS}; END",
        "CREATE VIRTUAL TABLE x USING fts5(y)",
        "ALTER TABLE problems ADD COLUMN big AS (zeroblob(1000000000))",
        "DROP TABLE spaces",
    ],
)
def test_a_foreign_schema_is_refused(tmp_path, samples, change):
    path = tmp_path / "tuning.db"
    with open_db(path) as db:
        db.set_winner(samples.device(), samples.winner(), None, None)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.executescript(change)
    raw.close()
    for readonly in (True, False):
        with pytest.raises(DatabaseError, match="is not as autotune makes it"):
            open_db(path, readonly=readonly)


def test_tables_and_indexes_of_others_are_left_alone(tmp_path):
    path = tmp_path / "tuning.db"
    open_db(path).close()
    sqlite3.connect(path, isolation_level=None).executescript("CREATE TABLE notes (x); CREATE INDEX i ON runs (host)")
    open_db(path).close()


def test_a_query_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(query_limit, "LIMIT_S", 0.2)
    with open_db(tmp_path / "tuning.db") as db:
        with pytest.raises(DatabaseError, match="s to answer"):
            db._read("x", ENDLESS.replace("SELECT i AS id FROM n", "SELECT count(*) FROM n"), (), dict)
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        monkeypatch.setattr(query_limit, "LIMIT_S", 60.0)
        with pytest.raises(KeyboardInterrupt):
            db._read("x", ENDLESS.replace("SELECT i AS id FROM n", "SELECT count(*) FROM n"), (), dict)
        assert db.info()["runs"] == 0
