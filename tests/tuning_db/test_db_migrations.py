"""The schema from nothing and again; newer, older, foreign and shared files."""

import multiprocessing
import re
import sqlite3
from pathlib import Path

import pytest

from kernel_templates.device import Device
from tuning_db import DatabaseError, migrations, open_db, schema
from tuning_db.records import Measurement, Objective, Source, TrialKind

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RELEASED = {1}  # versions that files may have been written by


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
    assert numbers == sorted(set(numbers)) and numbers[0] == 1 and numbers[-1] == migrations.LATEST


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


def test_the_first_schema_is_brought_up_to_date_with_its_measurements(tmp_path, samples, monkeypatch):
    path = tmp_path / "tuning.db"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        patch.setattr(migrations, "LATEST", 1)
        open_db(path).close()
    old = raw(path)
    when, of = "'2026-01-01T00:00:00+00:00'", Device("cpu", "x", "y", 2, 9).fingerprint
    old.execute(f"INSERT INTO devices VALUES (1, ?, 'cpu/x/y/2', 'cpu', 'x', 'y', 2, 9, '[]', {when})", (of,))
    old.execute("INSERT INTO problems VALUES (1, ?, 'matvec')", (samples.key,))
    old.execute(f"INSERT INTO runs VALUES (1, 1, 1, 1, 'tpe', 0, 9, 1, 1, '{{}}', 'finished', 'h', 1, {when}, {when})")
    old.execute(f"INSERT INTO run_trials VALUES (1, 1, '{{}}', 'ok', 1.0, 2.0, 3.0, 7, 0.1, 0.0, 1.0, NULL, {when})")
    old.close()
    for readonly in (True, False):
        with open_db(path, readonly=readonly) as db:
            assert db.trials(1)[0].measurement == Measurement(1.0, 2.0, 3.0, 7)
            assert db.runs()[0].run.objective is Objective.TIME
            assert db.info()["schema_version"] == migrations.LATEST


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


@pytest.fixture(params=sorted(FIXTURES.glob("tuning_db_schema_*.sql")), ids=lambda path: path.stem)
def written_earlier(request, tmp_path):
    """A database as an earlier version wrote it."""
    path = tmp_path / "earlier.db"
    raw(path).executescript(request.param.read_text()).connection.close()
    return path


def test_every_schema_before_the_latest_has_a_fixture():
    kept = {int(path.stem.rpartition("_")[2]) for path in FIXTURES.glob("tuning_db_schema_*.sql")}
    assert kept == {m.number for m in migrations.MIGRATIONS[:-1] if m.number in RELEASED}


def test_a_database_of_an_earlier_version(written_earlier):
    before = written_earlier.read_bytes()
    with open_db(written_earlier, readonly=True) as db:
        promised = db.exported()
    assert written_earlier.read_bytes() == before
    with open_db(written_earlier) as db:
        assert db.exported() == promised
        info = db.info()
        counts = ("schema_version", "devices", "problems", "runs", "trials", "winners", "replaced_winners")
        # Of 12 rows, 3 are of final comparisons.
        assert [info[name] for name in counts] == [migrations.LATEST, 2, 2, 3, 9, 3, 3]
        for stored in db.winners():
            winner = stored.winner
            found = db.lookup(stored.device, winner.problem, winner.template_version)
            assert found.source is Source.EXACT and found.winner == winner and winner.config["tile"] == 128
            assert winner.versions["commit"] == "44a7a031f0aa" and winner.error == 1e-3
            run = next(run for run in db.runs() if run.id == stored.run_id)
            assert run.uid == stored.run_uid and len(db.trials(run.id)) == 4
            assert [t.config["tile"] for t in db.trials(run.id)] == [16, 32, 64, 128]
            assert [t.kind for t in db.trials(run.id)] == [TrialKind.SEARCH] * 3 + [TrialKind.FINAL_COMPARISON]
            messages = [t.message for t in db.trials(run.id)]  # the last one's was "rematch"
            assert messages == ["PTXASError: too many rows", "relative error nan", None, None]
        assert db.ceilings(db.devices()[0])["read_gb_s"] == 26.7
        assert not db._connection.execute("PRAGMA foreign_key_check").fetchall()
        kinds = db._connection.execute("SELECT kind, count(*) FROM v_trials GROUP BY kind ORDER BY kind").fetchall()
        assert kinds == [("final_comparison", 3), ("search", 9)]
        assert db.add(promised).rows == {"devices": 0, "runs": 0, "trials": 0, "winners": 0}


def test_two_copies_of_an_earlier_file_agree_on_names(written_earlier, tmp_path):
    twin = tmp_path / "twin.db"
    twin.write_bytes(written_earlier.read_bytes())
    with open_db(written_earlier) as one, open_db(twin) as other:
        assert one.exported() == other.exported()


def test_the_schema_describes_itself(tmp_path):
    path = tmp_path / "tuning.db"
    open_db(path).close()
    connection = raw(path)
    there = {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        if not name.startswith("sqlite_")
    }
    assert set(schema.TABLES) == set(there)
    for table, columns in there.items():
        holds, described = schema.TABLES[table]
        assert holds.endswith(".") and set(described) <= set(columns)
        assert all(schema.column(table, column).endswith(".") for column in columns)


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
