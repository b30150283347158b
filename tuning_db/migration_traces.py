"""Step 6: what ran on a GPU beside kernels, where it ran, and tables of profilers that are no launches."""

from tuning_db.migration import Migration

TRACES = Migration(
    6,
    "traces: copies and fills, devices, tables",
    (
        "ALTER TABLE profiles ADD COLUMN devices TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE profile_launches ADD COLUMN device INTEGER",
        "ALTER TABLE profile_launches ADD COLUMN process INTEGER",
        "ALTER TABLE profile_launches ADD COLUMN bytes INTEGER",
        "ALTER TABLE profile_launches ADD COLUMN direction TEXT",
        "ALTER TABLE profile_ranges ADD COLUMN style TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE profile_tables (
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                place INTEGER NOT NULL,
                report TEXT NOT NULL,
                title TEXT NOT NULL,
                column_names TEXT NOT NULL,
                column_units TEXT NOT NULL,
                PRIMARY KEY (profile_id, place)
            )""",
        """CREATE TABLE profile_table_rows (
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                table_place INTEGER NOT NULL,
                place INTEGER NOT NULL,
                cells TEXT NOT NULL,
                PRIMARY KEY (profile_id, table_place, place)
            )""",
    ),
)
