"""Chooses which of a problem's winners on a device is current: the fastest of those that nothing replaced."""

import sqlite3

from tuning_db import validation


def choose_current(db: sqlite3.Connection, key: tuple[int, int, int]) -> list[tuple[str, float]]:
    """key: device, problem and template version, as the table has them. Marks the current winner and returns uid and
    median (ns) of all that nothing replaced, the fastest first; rows that make no sense do not count."""
    where = "WHERE device_id = ? AND problem_id = ? AND template_version = ?"
    found = db.execute(f"SELECT * FROM winners {where} AND replaced_at IS NULL", key)
    names = [column[0] for column in found.description]
    living: list[tuple[float, str]] = []
    for row in found:
        try:
            values = validation.row("winners", dict(zip(names, row, strict=True)))
        except ValueError:
            continue
        living.append((float(values["median_ns"]), values["uid"]))
    living.sort()
    db.execute(f"UPDATE winners SET current = 0 {where} AND current", key)
    if living:
        db.execute("UPDATE winners SET current = 1 WHERE uid = ?", (living[0][1],))
    return [(uid, ns) for ns, uid in living]
