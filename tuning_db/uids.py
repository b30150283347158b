"""Names that are the same in everybody's database: what makes merging add nothing twice.

Row numbers are a file's own. A run has a random name from its beginning on, its trials are counted, and everything
else is named by its content. Rows from before there were names get theirs from their content too, so that two copies
of an old file agree.
"""

import hashlib
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from kernel_templates.space import Space
from tuning_db import keys
from tuning_db.records import TrialKind
from tuning_db.rows import canonical_json


def new_run() -> str:
    return uuid.uuid4().hex


def content_id(*values: Any) -> str:
    """32 hex digits over the values, in this order."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:32]


def winner_id(device: str, problem: str, row: Mapping[str, Any]) -> str:
    """A winner's name: device is its fingerprint, problem its key, row the columns of table `winners`."""
    names = ("template_version", "config", "q10_ns", "median_ns", "q90_ns", "samples", "error", "tolerance")
    return content_id(device, problem, *(row[name] for name in names), row["created_at"])


def trials_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Trials as the name of an added run knows them, in the words of schema 4: a run that was added then keeps its
    name. Not JSON, which has no infinite errors."""
    known = []
    for row in rows:
        told = {name: value for name, value in row.items() if name != "kind"}
        known.append(told | {"message": "rematch"} if row["kind"] == TrialKind.FINAL_COMPARISON else told)
    return repr(known)


def space_row(space: Space) -> dict[str, Any]:
    """A space as the table `spaces` has it: parameters with their values, and constraints with their reasons."""
    parameters = canonical_json([[p.name, list(p.values), p.default, p.meaning] for p in space.parameters])
    constraints = canonical_json([[c.name, c.reason] for c in space.constraints])
    return {"uid": content_id(parameters, constraints), "parameters": parameters, "constraints": constraints}


def register(connection: sqlite3.Connection) -> None:
    """Make SQL functions of this connection that migrations name old rows with."""
    connection.create_function("content_id", -1, content_id, deterministic=True)
    connection.create_function("problem_family", 1, keys.family, deterministic=True)
    connection.create_function("problem_logs", 1, keys.logs, deterministic=True)
