"""Chooses which of a problem's winners on a device is current: the fastest of those that nothing replaced, and before
what others claim, the fastest that this machine has measured itself."""

import socket
import sqlite3

from tuning_db import validation


def choose_current(db: sqlite3.Connection, key: tuple[int, int, int]) -> list[tuple[str, float]]:
    """key: device, problem and template version, as the table has them. Marks the current winner and returns uid and
    median (ns) of all that nothing replaced, the first of them the current one; rows that make no sense do not
    count."""
    where = "WHERE device_id = ? AND problem_id = ? AND template_version = ?"
    mine = "EXISTS (SELECT 1 FROM runs r WHERE r.id = winners.run_id AND r.host = ?)"
    found = db.execute(
        f"SELECT {mine} AS mine, winners.* FROM winners {where} AND replaced_at IS NULL", (socket.gethostname(), *key)
    )
    names = [column[0] for column in found.description][1:]
    living: list[tuple[bool, float, str]] = []
    for measured_here, *row in found:
        try:
            values = validation.row("winners", dict(zip(names, row, strict=True)))
        except ValueError:
            continue
        living.append((not measured_here, float(values["median_ns"]), values["uid"]))
    living.sort()
    db.execute(f"UPDATE winners SET current = 0 {where} AND current", key)
    if living:
        db.execute("UPDATE winners SET current = 1 WHERE uid = ?", (living[0][2],))
    return [(uid, ns) for _, ns, uid in living]
