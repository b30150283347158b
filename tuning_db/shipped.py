"""Winners that come with autotune: text files in `tuning_db/shipped/`, one a chip, read-only beneath the user's own.

Each is what `autotune db export --winners` writes (see `tuning_db.jsonl`), so that a change can be reviewed line by
line. Only the file of the chip at hand is read, unless other chips' winners are asked for.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuning_db import jsonl, keys
from tuning_db.errors import damaged
from tuning_db.rows import Row, canonical_json

FOLDER = Path(__file__).parent / "shipped"


def file_name(chip_key: str) -> str:
    """ "cuda/NVIDIA H100 80GB HBM3/9.0/132" → "cuda-nvidia-h100-80gb-hbm3-9.0-132.jsonl"."""
    return re.sub(r"[^a-z0-9.]+", "-", chip_key.lower()).strip("-") + ".jsonl"


def of_chip(chip_key: str) -> list[Row]:
    """Rows like those of the table `winners` joined with its device and problem. Raises DatabaseError."""
    return list(_read(FOLDER / file_name(chip_key)))


def of_problem(problem: str, backend: str) -> Iterator[Row]:
    """The winners of one problem on every chip of a backend."""
    for path in sorted(FOLDER.glob(f"{backend}-*.jsonl")):
        yield from (row for row in _read(path) if row["problem"] == problem)


def of_family(family: str, backend: str) -> Iterator[Row]:
    """The winners of problems that differ in sizes only, on every chip of a backend."""
    for path in sorted(FOLDER.glob(f"{backend}-*.jsonl")):
        yield from (row for row in _read(path) if keys.family(row["problem"]) == family)


@lru_cache(maxsize=64)
def _read(path: Path) -> tuple[Row, ...]:
    devices: dict[str, Mapping[str, Any]] = {}
    rows: list[Row] = []
    try:
        for record in jsonl.read_text(path.read_text(encoding="utf-8"), str(path)):
            if record["kind"] == "device":
                devices[record["fingerprint"]] = {**record, "versions": canonical_json(record["versions"])}
            elif record["kind"] == "winner":
                rows.append(_row(record, devices[record["device"]]))
    except FileNotFoundError:
        return ()
    except (OSError, KeyError, jsonl.BadLine) as error:
        raise damaged(path, str(error)) from error
    return tuple(rows)


def _row(record: Mapping[str, Any], device: Mapping[str, Any]) -> Row:
    own = {**record, "config": canonical_json(record["config"]), "winner_versions": canonical_json(record["versions"])}
    own["state"] = None if record["state"] is None else canonical_json(record["state"])
    hardware = {name: device[name] for name in jsonl.DEVICE_FIELDS}
    return {**own, **hardware, "id": 0, "run_id": None}
