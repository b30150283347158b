"""The schema from nothing and again; newer, older, foreign and shared files."""

import multiprocessing
import re
import sqlite3

import pytest

from tuning_db import DatabaseError, migrations, open_db


def raw(path):
    return sqlite3.connect(path, isolation_level=None)


def test_from_scratch_and_again(tmp_path):
    path = tmp_path / "tuning.db"
    for _ in range(2):
        with open_db(path) as db:
            assert db.info()["schema_version"] == migrations.LATEST
    applied = raw(path).execute("SELECT number, name, applied_at FROM schema_migrations").fetchall()
    assert [(number, name) for number, name, _ in applied] == [(m.number, m.name) for m in migrations.MIGRATIONS]
    assert all(when.endswith("+00:00") for *_, when in applied)
    assert not raw(path).execute("PRAGMA foreign_key_check").fetchall()


def test_numbers_only_grow():
    numbers = [migration.number for migration in migrations.MIGRATIONS]
    assert numbers == sorted(set(numbers)) and numbers[0] == 1


def test_no_table_or_index_takes_a_name_of_optuna():
    ours = re.findall(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) (\w+)", str(migrations.MIGRATIONS))
    ours += re.findall(r"CREATE (?:VIEW|TRIGGER) (\w+)", str(migrations.MIGRATIONS))
    assert ours and not migrations.OPTUNA_TABLES & set(ours)
    assert not any(name.startswith("ix_") for name in ours)


def test_optunas_list_is_complete():
    models = pytest.importorskip("optuna.storages._rdb.models")
    pytest.importorskip("alembic")
    assert set(models.BaseModel.metadata.tables) | {"alembic_version"} == migrations.OPTUNA_TABLES


def test_the_file_may_be_optunas_first(tmp_path, samples):
    path = tmp_path / "shared.db"
    raw(path).executescript("CREATE TABLE studies (x); CREATE TABLE trials (x); INSERT INTO trials VALUES (1);")
    with open_db(path, readonly=True) as db:
        assert db.winners() == []
    with open_db(path) as db:
        db.set_winner(samples.device(), samples.winner(), None, None)
    assert raw(path).execute("SELECT x FROM trials").fetchall() == [(1,)]


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("PRAGMA user_version = 99", "newer autotune .schema 99, this one knows"),
        ("DROP TABLE schema_migrations", "another program's SQLite file"),
        ("DELETE FROM schema_migrations", "is damaged .schema version"),
        ("PRAGMA user_version = 0", "is damaged .schema version"),
    ],
)
def test_a_schema_that_is_not_ours_is_refused_untouched(tmp_path, change, complaint, readonly):
    path = tmp_path / "tuning.db"
    open_db(path).close()
    raw(path).execute(change).connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=complaint) as caught:
        open_db(path, readonly=readonly)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_of_another_program_is_refused_untouched(tmp_path, readonly):
    path = tmp_path / "bookmarks.db"
    raw(path).execute("CREATE TABLE bookmarks (url)").connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="another program's"):
        open_db(path, readonly=readonly)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def one_more_migration(monkeypatch):
    added = migrations.Migration(migrations.LATEST + 1, "notes", ("CREATE TABLE notes (text TEXT)",))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, added))
    monkeypatch.setattr(migrations, "LATEST", added.number)


def test_an_older_file_is_brought_up_to_date_with_its_rows(tmp_path, samples, request):
    path = tmp_path / "tuning.db"
    with open_db(path) as db:
        db.set_winner(samples.device(), samples.winner(), None, None)
    request.getfixturevalue("one_more_migration")
    before = path.read_bytes()
    with open_db(path, readonly=True) as db:
        assert db.info()["schema_version"] == migrations.LATEST and len(db.winners()) == 1
    assert path.read_bytes() == before
    with open_db(path) as db:
        assert db.info()["schema_version"] == migrations.LATEST and len(db.winners()) == 1


def test_a_failing_migration_leaves_the_old_schema(tmp_path, monkeypatch):
    path = tmp_path / "tuning.db"
    open_db(path).close()
    broken = migrations.Migration(migrations.LATEST + 1, "broken", ("CREATE TABLE a (x)", "CREATE TABLE a (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        patch.setattr(migrations, "LATEST", broken.number)
        with pytest.raises(DatabaseError, match="already exists"):
            open_db(path)
    with open_db(path) as db:
        assert db.info()["schema_version"] == migrations.LATEST
    assert not raw(path).execute("SELECT 1 FROM sqlite_master WHERE name = 'a'").fetchall()


def _create(path, barrier, queue):
    barrier.wait()
    try:
        with open_db(path) as db:
            queue.put(db.info()["schema_version"])
    except Exception as error:
        queue.put(str(error))


def test_many_processes_may_create_the_file_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        barrier, queue = context.Barrier(6), context.SimpleQueue()
        path = tmp_path / f"{attempt}.db"
        children = [context.Process(target=_create, args=(path, barrier, queue)) for _ in range(6)]
        for child in children:
            child.start()
        assert [queue.get() for _ in children] == [migrations.LATEST] * 6
        for child in children:
            child.join()
