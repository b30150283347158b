"""Step 4: what profilers say about kernels (`tuning_db.profile_records`)."""

from tuning_db.migration import Migration

PROFILES = Migration(
    4,
    "profiles",
    (
        # metric_names and metric_units: JSON lists, in the order of every launch's metric_values.
        """CREATE TABLE profiles (
                id INTEGER PRIMARY KEY,
                file TEXT NOT NULL,
                sha256 TEXT NOT NULL UNIQUE,
                size_bytes INTEGER NOT NULL,
                tool TEXT NOT NULL,
                format TEXT NOT NULL,
                tool_version TEXT NOT NULL,
                chip TEXT NOT NULL,
                clocks TEXT NOT NULL,
                fingerprint TEXT,
                recorded_at TEXT,
                found INTEGER NOT NULL,
                expected INTEGER,
                note TEXT NOT NULL,
                metric_names TEXT NOT NULL,
                metric_units TEXT NOT NULL,
                imported_at TEXT NOT NULL
            )""",
        # metric_values: float64, least significant byte first, NaN where a launch has none. Rows of their own would
        # be 300 a launch, and an import of 1,000 launches would take seconds.
        """CREATE TABLE profile_launches (
                id INTEGER PRIMARY KEY,
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                place INTEGER NOT NULL,
                kernel TEXT NOT NULL,
                kind TEXT NOT NULL,
                grid_x INTEGER, grid_y INTEGER, grid_z INTEGER,
                block_x INTEGER, block_y INTEGER, block_z INTEGER,
                start_ns INTEGER,
                duration_ns REAL,
                count INTEGER NOT NULL,
                stream INTEGER,
                range_place INTEGER,
                problem TEXT,
                config TEXT,
                role TEXT,
                metric_values BLOB,
                metric_texts TEXT,
                UNIQUE (profile_id, place)
            )""",
        "CREATE INDEX profile_launches_by_problem ON profile_launches (problem) WHERE problem IS NOT NULL",
        """CREATE TABLE profile_findings (
                id INTEGER PRIMARY KEY,
                launch_id INTEGER NOT NULL REFERENCES profile_launches (id),
                rule TEXT NOT NULL,
                section TEXT NOT NULL,
                kind TEXT NOT NULL,
                title TEXT NOT NULL,
                text TEXT NOT NULL,
                gain REAL,
                gain_scope TEXT,
                focus TEXT NOT NULL
            )""",
        "CREATE INDEX profile_findings_by_launch ON profile_findings (launch_id)",
        """CREATE TABLE profile_lines (
                id INTEGER PRIMARY KEY,
                launch_id INTEGER NOT NULL REFERENCES profile_launches (id),
                address INTEGER NOT NULL,
                sass TEXT NOT NULL,
                ptx TEXT,
                file TEXT,
                line INTEGER,
                executed INTEGER,
                stalls TEXT NOT NULL
            )""",
        "CREATE INDEX profile_lines_by_launch ON profile_lines (launch_id)",
        """CREATE TABLE profile_ranges (
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                place INTEGER NOT NULL,
                name TEXT NOT NULL,
                parent INTEGER,
                domain TEXT NOT NULL,
                thread INTEGER,
                start_ns INTEGER,
                end_ns INTEGER,
                PRIMARY KEY (profile_id, place)
            )""",
        """CREATE TABLE profile_sources (
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                name TEXT NOT NULL,
                text TEXT NOT NULL,
                PRIMARY KEY (profile_id, name)
            )""",
    ),
)
