"""The schema as a list of numbered steps. A step that was ever released is never edited; a change is a new step.

Applied steps are listed in the table `schema_migrations`, and the last number is also `PRAGMA user_version`, so that
any SQLite tool can tell the version. No table may carry a name that Optuna's relational storage uses (`trials`,
`studies`, ...): its tables may live in the same file.
"""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from tuning_db import schema_check, uids
from tuning_db.errors import DatabaseError, damaged
from tuning_db.migration import Migration
from tuning_db.migration_host import HOST
from tuning_db.migration_profiles import PROFILES
from tuning_db.migration_sharing import SHARING
from tuning_db.migration_traces import TRACES
from tuning_db.migration_trial_kind import TRIAL_KIND

# The tables of Optuna's relational storage, which may have been the first to use the file.
OPTUNA_TABLES = frozenset(
    {
        "alembic_version",
        "studies",
        "study_directions",
        "study_system_attributes",
        "study_user_attributes",
        "trial_heartbeats",
        "trial_intermediate_values",
        "trial_params",
        "trial_system_attributes",
        "trial_user_attributes",
        "trial_values",
        "trials",
        "version_info",
    }
)


# Times are nanoseconds, sizes bytes, timestamps UTC in ISO 8601. JSON columns are canonical (tuning_db.rows).
MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "devices, problems, runs, trials, winners",
        (
            """CREATE TABLE schema_migrations (
                number INTEGER PRIMARY KEY,
                name TEXT NOT NULL,
                applied_at TEXT NOT NULL
            )""",
            """CREATE TABLE devices (
                id INTEGER PRIMARY KEY,
                fingerprint TEXT NOT NULL UNIQUE,
                chip_key TEXT NOT NULL,
                backend TEXT NOT NULL,
                chip TEXT NOT NULL,
                capability TEXT NOT NULL,
                units INTEGER NOT NULL,
                memory_bytes INTEGER NOT NULL,
                versions TEXT NOT NULL,
                first_seen_at TEXT NOT NULL
            )""",
            "CREATE INDEX devices_by_chip ON devices (chip_key)",
            """CREATE TABLE device_ceilings (
                device_id INTEGER NOT NULL REFERENCES devices (id),
                name TEXT NOT NULL,
                value REAL NOT NULL,
                measured_at TEXT NOT NULL,
                PRIMARY KEY (device_id, name)
            )""",
            """CREATE TABLE problems (
                id INTEGER PRIMARY KEY,
                key TEXT NOT NULL UNIQUE,
                op TEXT NOT NULL
            )""",
            "CREATE INDEX problems_by_op ON problems (op)",
            """CREATE TABLE runs (
                id INTEGER PRIMARY KEY,
                device_id INTEGER NOT NULL REFERENCES devices (id),
                problem_id INTEGER NOT NULL REFERENCES problems (id),
                template_version INTEGER NOT NULL,
                sampler TEXT NOT NULL,
                seed INTEGER NOT NULL,
                space_size INTEGER NOT NULL,
                work_bytes INTEGER NOT NULL,
                work_ops INTEGER NOT NULL,
                run_versions TEXT NOT NULL,
                status TEXT NOT NULL,
                host TEXT NOT NULL,
                pid INTEGER NOT NULL,
                started_at TEXT NOT NULL,
                finished_at TEXT
            )""",
            "CREATE INDEX runs_by_device_and_problem ON runs (device_id, problem_id, template_version)",
            """CREATE TABLE run_trials (
                id INTEGER PRIMARY KEY,
                run_id INTEGER NOT NULL REFERENCES runs (id),
                config TEXT NOT NULL,
                outcome TEXT NOT NULL,
                q10_ns REAL,
                median_ns REAL,
                q90_ns REAL,
                samples INTEGER,
                compile_s REAL,
                error REAL,
                tolerance REAL,
                message TEXT,
                created_at TEXT NOT NULL
            )""",
            "CREATE INDEX run_trials_by_run ON run_trials (run_id)",
            """CREATE TABLE winners (
                id INTEGER PRIMARY KEY,
                device_id INTEGER NOT NULL REFERENCES devices (id),
                problem_id INTEGER NOT NULL REFERENCES problems (id),
                template_version INTEGER NOT NULL,
                run_id INTEGER REFERENCES runs (id),
                trial_id INTEGER REFERENCES run_trials (id),
                config TEXT NOT NULL,
                q10_ns REAL NOT NULL,
                median_ns REAL NOT NULL,
                q90_ns REAL NOT NULL,
                samples INTEGER NOT NULL,
                default_ns REAL,
                error REAL NOT NULL,
                tolerance REAL NOT NULL,
                created_at TEXT NOT NULL,
                replaced_at TEXT
            )""",
            # At most one current winner; the ones it replaced stay as history.
            """CREATE UNIQUE INDEX winners_current ON winners (device_id, problem_id, template_version)
                WHERE replaced_at IS NULL""",
            # Lookups ask for current winners only, and a long history must not slow them down.
            "CREATE INDEX winners_by_problem ON winners (problem_id) WHERE replaced_at IS NULL",
        ),
    ),
    Migration(
        2,
        "the device's state and the energy of a measurement, the objective of a run",
        (
            "ALTER TABLE run_trials ADD COLUMN state TEXT",
            "ALTER TABLE run_trials ADD COLUMN energy_uj REAL",
            "ALTER TABLE winners ADD COLUMN state TEXT",
            "ALTER TABLE winners ADD COLUMN energy_uj REAL",
            "ALTER TABLE runs ADD COLUMN objective TEXT NOT NULL DEFAULT 'time'",
        ),
    ),
    SHARING,
    PROFILES,
    TRIAL_KIND,
    TRACES,
    HOST,
)

LATEST = MIGRATIONS[-1].number


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of the last applied migration, 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file that is ours, empty, or so far Optuna's alone.

    Reads only. Raises DatabaseError for a newer schema, another program's file, or a version that contradicts the
    list of applied migrations.
    """
    # One snapshot for all three questions: another process may be migrating at this moment.
    connection.execute("BEGIN")
    try:
        version = schema_version(connection)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        ours = "schema_migrations" in tables
        strangers = [name for name in tables - OPTUNA_TABLES if not name.startswith("sqlite_")]
        # A newer schema may have changed even this table, so it is not asked.
        readable = ours and version <= LATEST
        recorded = connection.execute("SELECT max(number) FROM schema_migrations").fetchone()[0] if readable else None
        # A file that is none of ours, newer or damaged is told so below; of the others the rest of the schema counts.
        if recorded == version if readable else not (ours or version or strangers):
            schema_check.require_ours(connection, path, MIGRATIONS[:version] if ours else ())
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if not ours:
        if version or strangers:
            raise DatabaseError(f"{path} is another program's SQLite file; choose another file with --db")
        return 0
    if version > LATEST:
        raise DatabaseError(
            f"tuning database {path} was written by a newer autotune (schema {version}, this one knows {LATEST}); "
            "upgrade autotune or choose another file with --db"
        )
    if recorded != version:
        raise damaged(path, f"schema version {version}, but migration {recorded} was the last one recorded")
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing, all or nothing. Safe when several processes open a new file at once."""
    if schema_version(connection) >= LATEST:
        return
    uids.register(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may have been faster.
        done = schema_version(connection)
        for migration in MIGRATIONS:
            if migration.number <= done:
                continue
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations (number, name, applied_at) VALUES (?, ?, ?)",
                (migration.number, migration.name, datetime.now(UTC).isoformat(timespec="seconds")),
            )
            connection.execute(f"PRAGMA user_version = {migration.number:d}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
