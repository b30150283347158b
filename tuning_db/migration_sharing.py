"""Step 3: what merging, provenance and quick lookups need.

Until now a winner was current when nothing had replaced it, and there was at most one. After a merge there may be
several that nothing replaced; the fastest of them is current. `replaced_at` is a fact that travels, `current` follows
from the facts.
"""

from tuning_db.migration import Migration

_WINNER_COLUMNS = "w.template_version, w.config, w.q10_ns, w.median_ns, w.q90_ns, w.samples, w.error, w.tolerance"

_RUN = "template_version, sampler, seed, host, pid, started_at"

SHARING = Migration(
    3,
    "spaces, names for merging, where a winner came from, views",
    (
        """CREATE TABLE spaces (
            id INTEGER PRIMARY KEY,
            uid TEXT NOT NULL UNIQUE,
            parameters TEXT NOT NULL,
            constraints TEXT NOT NULL
        )""",
        "ALTER TABLE runs ADD COLUMN uid TEXT",
        "ALTER TABLE runs ADD COLUMN space_id INTEGER REFERENCES spaces (id)",
        # Two runs of one process within a millisecond are told apart by their place among their likes.
        "CREATE TEMP TABLE places (id INTEGER PRIMARY KEY, place INTEGER)",
        f"""INSERT INTO places
            SELECT id, row_number() OVER (PARTITION BY device_id, problem_id, {_RUN} ORDER BY id) FROM runs""",
        f"""UPDATE runs SET uid = (
            SELECT content_id(d.fingerprint, p.key, {_RUN}, n.place) FROM runs r JOIN devices d ON d.id = r.device_id
                JOIN problems p ON p.id = r.problem_id JOIN places n ON n.id = r.id
            WHERE r.id = runs.id)""",
        "DROP TABLE places",
        "CREATE UNIQUE INDEX runs_by_uid ON runs (uid)",
        "ALTER TABLE run_trials ADD COLUMN number INTEGER",
        "CREATE TEMP TABLE numbered (id INTEGER PRIMARY KEY, number INTEGER)",
        """INSERT INTO numbered
            SELECT id, row_number() OVER (PARTITION BY run_id ORDER BY id) - 1 FROM run_trials""",
        "UPDATE run_trials SET number = (SELECT number FROM numbered n WHERE n.id = run_trials.id)",
        "DROP TABLE numbered",
        "DROP INDEX run_trials_by_run",
        "CREATE UNIQUE INDEX run_trials_by_run ON run_trials (run_id, number)",
        "ALTER TABLE problems ADD COLUMN family TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE problems ADD COLUMN logs BLOB NOT NULL DEFAULT x''",
        "UPDATE problems SET family = problem_family(key), logs = problem_logs(key)",
        "CREATE INDEX problems_by_family ON problems (family)",
        "ALTER TABLE winners ADD COLUMN uid TEXT",
        "ALTER TABLE winners ADD COLUMN current INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE winners ADD COLUMN run_uid TEXT",
        "ALTER TABLE winners ADD COLUMN trial_number INTEGER",
        "ALTER TABLE winners ADD COLUMN reference TEXT",
        "ALTER TABLE winners ADD COLUMN winner_versions TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE winners ADD COLUMN clock_mhz REAL",
        f"""UPDATE winners SET current = replaced_at IS NULL,
            uid = (SELECT content_id(d.fingerprint, p.key, {_WINNER_COLUMNS}, w.created_at)
                FROM winners w JOIN devices d ON d.id = w.device_id JOIN problems p ON p.id = w.problem_id
                WHERE w.id = winners.id),
            run_uid = (SELECT uid FROM runs r WHERE r.id = winners.run_id),
            trial_number = (SELECT number FROM run_trials t WHERE t.id = winners.trial_id),
            winner_versions = coalesce((SELECT run_versions FROM runs r WHERE r.id = winners.run_id), '{{}}')""",
        # The very same winner set twice within a millisecond is one winner.
        """DELETE FROM winners WHERE EXISTS (
            SELECT 1 FROM winners w WHERE w.uid = winners.uid AND (w.current, w.id) > (winners.current, winners.id))""",
        "CREATE UNIQUE INDEX winners_by_uid ON winners (uid)",
        "DROP INDEX winners_current",
        "DROP INDEX winners_by_problem",
        "CREATE UNIQUE INDEX winners_current ON winners (device_id, problem_id, template_version) WHERE current",
        "CREATE INDEX winners_by_problem ON winners (problem_id) WHERE current",
        # Lookups keep winners in memory; this number says when to read them again.
        "CREATE TABLE winners_state (id INTEGER PRIMARY KEY CHECK (id = 1), generation INTEGER NOT NULL)",
        "INSERT INTO winners_state VALUES (1, 1)",
        *(
            f"""CREATE TRIGGER winners_{event.lower()} AFTER {event} ON winners
                BEGIN UPDATE winners_state SET generation = generation + 1; END"""
            for event in ("INSERT", "UPDATE", "DELETE")
        ),
        """CREATE VIEW v_devices AS
            SELECT d.id, d.backend, d.chip, d.capability, d.units, round(d.memory_bytes / 1e9, 1) AS memory_gb,
                d.versions, d.fingerprint, d.first_seen_at,
                (SELECT value FROM device_ceilings c WHERE c.device_id = d.id AND c.name = 'read_gb_s') AS read_gb_s,
                (SELECT count(*) FROM runs r WHERE r.device_id = d.id) AS runs,
                (SELECT count(*) FROM winners w WHERE w.device_id = d.id AND w.current) AS winners
            FROM devices d""",
        """CREATE VIEW v_winners AS
            SELECT d.chip, p.op, p.key AS problem, w.template_version, w.median_ns / 1e3 AS median_us,
                w.default_ns / w.median_ns AS speed_up, r.work_bytes / w.median_ns AS gb_s, w.config, w.error,
                w.tolerance, w.reference, w.clock_mhz, w.winner_versions AS versions, w.run_id, w.trial_id, w.created_at
            FROM winners w JOIN devices d ON d.id = w.device_id JOIN problems p ON p.id = w.problem_id
                LEFT JOIN runs r ON r.id = w.run_id
            WHERE w.current""",
        """CREATE VIEW v_trials AS
            SELECT d.chip, p.op, p.key AS problem, r.template_version, t.run_id, t.number, r.sampler, t.outcome,
                t.median_ns / 1e3 AS median_us, t.q10_ns / 1e3 AS q10_us, t.q90_ns / 1e3 AS q90_us, t.samples,
                t.compile_s, t.error, t.tolerance, t.config, t.message, t.created_at
            FROM run_trials t JOIN runs r ON r.id = t.run_id JOIN devices d ON d.id = r.device_id
                JOIN problems p ON p.id = r.problem_id""",
    ),
)
