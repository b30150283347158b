"""Step 7: what the host did around a GPU's work: when each launch was called, and when the host waited for the GPU."""

from tuning_db.migration import Migration

HOST = Migration(
    7,
    "the host's side of traces",
    (
        "ALTER TABLE profile_launches ADD COLUMN called_ns INTEGER",
        """CREATE TABLE profile_waits (
                profile_id INTEGER NOT NULL REFERENCES profiles (id),
                place INTEGER NOT NULL,
                name TEXT NOT NULL,
                process INTEGER,
                thread INTEGER,
                start_ns INTEGER NOT NULL,
                end_ns INTEGER NOT NULL,
                PRIMARY KEY (profile_id, place)
            )""",
    ),
)
