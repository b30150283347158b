"""All that a database holds, as records (`tuning_db.jsonl`); rows that make no sense are left out and said."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuning_db import jsonl
from tuning_db.field_checks import LONGEST_JSON

Record = Mapping[str, Any]

_SELECT = {
    "device": "SELECT fingerprint, chip_key, backend, chip, capability, units, memory_bytes, versions, first_seen_at "
    "FROM devices ORDER BY fingerprint",
    "ceilings": "SELECT d.fingerprint AS device, c.name, c.value, c.measured_at FROM device_ceilings c "
    "JOIN devices d ON d.id = c.device_id ORDER BY d.fingerprint, c.name",
    "space": "SELECT uid, parameters, constraints FROM spaces ORDER BY uid",
    "run": "SELECT r.uid, d.fingerprint AS device, p.key AS problem, r.template_version, r.sampler, r.seed, "
    "s.uid AS space, r.space_size, r.work_bytes, r.work_ops, r.run_versions AS versions, r.objective, "
    "r.status, r.host, r.pid, "
    "r.started_at, r.finished_at FROM runs r JOIN devices d ON d.id = r.device_id "
    "JOIN problems p ON p.id = r.problem_id LEFT JOIN spaces s ON s.id = r.space_id ORDER BY r.uid",
    "trial": "SELECT r.uid AS run, t.number, t.config, t.outcome, t.q10_ns, t.median_ns, t.q90_ns, t.samples, "
    "t.state, t.energy_uj, t.compile_s, t.error, t.tolerance, t.message, t.kind AS trial_kind, t.created_at "
    "FROM run_trials t JOIN runs r ON r.id = t.run_id ORDER BY r.uid, t.number",
    "winner": "SELECT w.uid, d.fingerprint AS device, p.key AS problem, w.template_version, w.config, w.q10_ns, "
    "w.median_ns, w.q90_ns, w.samples, w.state, w.energy_uj, w.default_ns, w.error, w.tolerance, w.reference, "
    "w.winner_versions AS versions, w.clock_mhz, w.run_uid, w.trial_number, w.created_at, w.replaced_at FROM winners w "
    "JOIN devices d ON d.id = w.device_id JOIN problems p ON p.id = w.problem_id "
    "ORDER BY d.fingerprint, p.key, w.template_version, w.created_at, w.uid",
}
_JSON = ("versions", "parameters", "constraints", "config", "state")


def everything(db: sqlite3.Connection, left_out: list[str]) -> list[dict[str, Any]]:
    """Every record that makes sense, always in the same order; of each other one a line of `left_out`. A record about
    something that is left out is left out too. The caller holds a transaction, or is the only writer."""
    found: list[dict[str, Any]] = []
    named: set[tuple[str, Any]] = set()
    for kind, sql in _SELECT.items():
        for record in _ceilings(db, sql, left_out) if kind == "ceilings" else _rows(db, kind, sql):
            try:
                jsonl.check(_decoded(record))
                _require_known(record, named)
            except ValueError as error:
                left_out.append(str(error))
                continue
            named.add((kind, record.get("fingerprint") if kind == "device" else record.get("uid")))
            found.append(record)
    return found


def current_winners(db: sqlite3.Connection, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Current winners and their devices: what others need to run fast, without how it was found."""
    current = {uid for (uid,) in db.execute("SELECT uid FROM winners WHERE current")}
    winners = [r for r in records if r["kind"] == "winner" and r["uid"] in current]
    used = {w["device"] for w in winners}
    return [*(r for r in records if r["kind"] == "device" and r["fingerprint"] in used), *winners]


def of_chip(records: Iterable[dict[str, Any]], chip: str) -> list[dict[str, Any]]:
    """What belongs to devices whose name has `chip` in it."""
    return _of_devices(list(records), lambda device: chip.lower() in device["chip"].lower())


def of_chip_key(records: Iterable[dict[str, Any]], chip_key: str) -> list[dict[str, Any]]:
    """What belongs to the devices of one chip."""
    return _of_devices(list(records), lambda device: device["chip_key"] == chip_key)


def _rows(db: sqlite3.Connection, kind: str, sql: str) -> Iterable[dict[str, Any]]:
    cursor = db.execute(sql)
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield {"kind": kind, **dict(zip(names, row, strict=True))}


def _ceilings(db: sqlite3.Connection, sql: str, left_out: list[str]) -> Iterable[dict[str, Any]]:
    """One record a device; a limit that makes no sense hides none of the others."""
    grouped: dict[Any, dict[str, Any]] = {}
    for device, name, value, when in db.execute(sql):
        one = {"kind": "ceilings", "device": device, "values": {name: value}, "measured_at": when}
        try:
            jsonl.check(one)
        except ValueError as error:
            left_out.append(str(error))
            continue
        known = grouped.setdefault(device, one)
        known["values"][name] = value
        known["measured_at"] = max(known["measured_at"], when)
    return grouped.values()


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    """The record itself, its JSON decoded; text that is none stays as it is, for the check to refuse."""
    for name in _JSON:
        value = record.get(name)
        if type(value) is str and len(value) <= LONGEST_JSON:
            try:
                record[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue
    return record


def _require_known(record: Record, named: set[tuple[str, Any]]) -> None:
    about = {"device": record.get("device"), "space": record.get("space"), "run": record.get("run")}
    for kind, name in about.items():
        if name is not None and (kind, name) not in named:
            raise ValueError(f"the {kind} of a {record['kind']} is left out")


def _of_devices(records: list[dict[str, Any]], wanted: Callable[[Record], bool]) -> list[dict[str, Any]]:
    devices = {f["fingerprint"] for f in records if f["kind"] == "device" and wanted(f)}
    runs = {f["uid"] for f in records if f["kind"] == "run" and f["device"] in devices}
    spaces = {f["space"] for f in records if f["kind"] == "run" and f["uid"] in runs}

    def belongs(record: Record) -> bool:
        if record["kind"] == "trial":
            return record["run"] in runs
        if record["kind"] == "space":
            return record["uid"] in spaces
        return (record["fingerprint"] if record["kind"] == "device" else record["device"]) in devices

    return [record for record in records if belongs(record)]
