"""Every trial with when it ended: what a chart of a search needs and a search itself does not."""

from dataclasses import dataclass

from tuning_db import rows
from tuning_db.reading import Reader
from tuning_db.records import Trial


@dataclass(frozen=True)
class TimedTrial:
    """created_at: UTC in ISO 8601, when the trial was recorded."""

    run_id: int
    trial: Trial
    created_at: str


def timed_trials(db: Reader) -> list[TimedTrial]:
    """All trials of all runs in the order they were recorded. Raises DatabaseError."""
    return db._read(
        "run_trials",
        "SELECT * FROM run_trials ORDER BY id",
        (),
        lambda row: TimedTrial(int(row["run_id"]), rows.trial_from(row), str(row["created_at"])),
    )
