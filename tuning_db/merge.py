"""Merges databases: all that one holds as records (`tuning_db.jsonl`), and records added to another.

Adding is a union. What can differ between two databases about one thing is joined by a rule in which neither side
comes first: the earlier of two replacements of a winner, the later of two measurements of a roof, an ended run rather
than a running one. So merging is commutative, associative and idempotent. Of the winners that nothing replaced, the
fastest that this machine has measured is current, and where it has measured none, the fastest.
"""

import json
import socket
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuning_db import keys
from tuning_db.rows import canonical_json

Record = Mapping[str, Any]

_SELECT = {
    "device": "SELECT fingerprint, chip_key, backend, chip, capability, units, memory_bytes, versions, first_seen_at "
    "FROM devices ORDER BY fingerprint",
    "ceilings": "SELECT d.fingerprint AS device, json_group_object(c.name, c.value) AS 'values', "
    "max(c.measured_at) AS measured_at FROM device_ceilings c JOIN devices d ON d.id = c.device_id "
    "GROUP BY d.fingerprint ORDER BY d.fingerprint",
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
_JSON = ("versions", "values", "parameters", "constraints", "config", "state")
# What this machine has measured itself, in a run that is here, comes before what others claim.
_MEASURED_HERE = "EXISTS (SELECT 1 FROM runs r WHERE r.id = winners.run_id AND r.host = ?)"
NOTHING = ""  # sorts before every timestamp


@dataclass(frozen=True)
class Conflict:
    """Two winners of one problem on one device that were never compared; the faster one is kept as the current one."""

    chip: str
    problem: str
    kept_ns: float
    other_ns: float
    kept_ours: bool


@dataclass
class Added:
    """What an addition brought: rows that are new, by table, and conflicts that it resolved."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("devices", "runs", "trials", "winners"), 0))
    conflicts: list[Conflict] = field(default_factory=list)


def all_records(db: sqlite3.Connection, kinds: Iterable[str] = tuple(_SELECT)) -> list[dict[str, Any]]:
    """Every record, always in the same order. The caller holds a transaction, or is the only writer."""
    found: list[dict[str, Any]] = []
    for kind in kinds:
        cursor = db.execute(_SELECT[kind])
        names = [column[0] for column in cursor.description]
        for row in cursor:
            record = dict(zip(names, row, strict=True))
            found.append({"kind": kind, **record, **{n: json.loads(record[n]) for n in _JSON if record.get(n)}})
    return found


def winners_only(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Current winners and their devices: what others need to run fast, without how it was found."""
    current = {uid for (uid,) in db.execute("SELECT uid FROM winners WHERE current")}
    winners = [w for w in all_records(db, ["winner"]) if w["uid"] in current]
    used = {w["device"] for w in winners}
    return [*(d for d in all_records(db, ["device"]) if d["fingerprint"] in used), *winners]


def of_chip(records: Iterable[dict[str, Any]], chip: str) -> list[dict[str, Any]]:
    """What belongs to devices whose name has `chip` in it."""
    return _of_devices(list(records), lambda device: chip.lower() in device["chip"].lower())


def of_chip_key(records: Iterable[dict[str, Any]], chip_key: str) -> list[dict[str, Any]]:
    """What belongs to the devices of one chip."""
    return _of_devices(list(records), lambda device: device["chip_key"] == chip_key)


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


class Adder:
    """Adds records within the caller's transaction. They come in the order of `jsonl.KINDS`; a record about something
    that neither came nor is known raises KeyError."""

    def __init__(self, db: sqlite3.Connection):
        self._db = db
        self._ids: dict[tuple[str, str], int] = {}
        self._touched: dict[tuple[int, int, int], str | None] = {}  # key of a winner → the uid current before
        self._fresh: set[tuple[int, int, int]] = set()  # of those, where a winner came that nothing has replaced
        self.added = Added()

    def add(self, records: Iterable[Record]) -> Added:
        rules: dict[str, Callable[[Record], None]] = {
            "device": self._device, "ceilings": self._ceilings, "space": self._space, "run": self._run,
            "trial": self._trial, "winner": self._winner,
        }  # fmt: skip
        for record in records:
            rules[record["kind"]](record)
        self._link()
        for key, before in self._touched.items():
            self._choose(key, before)
        return self.added

    def _device(self, record: Record) -> None:
        row = {name: value for name, value in record.items() if name != "kind"}
        if self._insert("devices", {**row, "versions": canonical_json(record["versions"])}):
            self.added.rows["devices"] += 1
        else:
            self._db.execute(
                "UPDATE devices SET first_seen_at = min(first_seen_at, ?) WHERE fingerprint = ?",
                (record["first_seen_at"], record["fingerprint"]),
            )

    def _ceilings(self, record: Record) -> None:
        device = self._id("devices", "fingerprint", record["device"])
        known = self._db.execute(
            "SELECT name, value, measured_at FROM device_ceilings WHERE device_id = ?", (device,)
        ).fetchall()
        ours = (max((when for *_, when in known), default=NOTHING), canonical_json({n: v for n, v, _ in known}))
        if (record["measured_at"], canonical_json(record["values"])) > ours:
            self._db.execute("DELETE FROM device_ceilings WHERE device_id = ?", (device,))
            for name, value in record["values"].items():
                row = {"device_id": device, "name": name, "value": value, "measured_at": record["measured_at"]}
                self._insert("device_ceilings", row)

    def _space(self, record: Record) -> None:
        texts = {name: canonical_json(record[name]) for name in ("parameters", "constraints")}
        self._insert("spaces", {"uid": record["uid"], **texts})

    def _run(self, record: Record) -> None:
        own = ("template_version", "sampler", "seed", "space_size", "work_bytes", "work_ops", "host", "pid")
        row = {
            "uid": record["uid"],
            "device_id": self._id("devices", "fingerprint", record["device"]),
            "problem_id": self._problem(record["problem"]),
            "space_id": None if record["space"] is None else self._id("spaces", "uid", record["space"]),
            "run_versions": canonical_json(record["versions"]),
            **{name: record[name] for name in (*own, "objective", "status", "started_at", "finished_at")},
        }
        if self._insert("runs", row):
            self.added.rows["runs"] += 1
            return
        status, finished = self._db.execute(
            "SELECT status, finished_at FROM runs WHERE uid = ?", (record["uid"],)
        ).fetchone()
        if (record["finished_at"] or NOTHING, record["status"]) > (finished or NOTHING, status):
            self._db.execute(
                "UPDATE runs SET status = ?, finished_at = ? WHERE uid = ?",
                (record["status"], record["finished_at"], record["uid"]),
            )

    def _trial(self, record: Record) -> None:
        run = self._id("runs", "uid", record["run"])
        row = {name: value for name, value in record.items() if name not in ("kind", "run", "trial_kind")}
        if self._insert("run_trials", {**row, "kind": record["trial_kind"], "run_id": run, **_texts(record)}):
            self.added.rows["trials"] += 1

    def _winner(self, record: Record) -> None:
        device = self._id("devices", "fingerprint", record["device"])
        key = (device, self._problem(record["problem"]), record["template_version"])
        if key not in self._touched:
            found = self._db.execute(
                "SELECT uid FROM winners WHERE device_id = ? AND problem_id = ? AND template_version = ? AND current",
                key,
            ).fetchone()
            self._touched[key] = found[0] if found else None
        row = {name: value for name, value in record.items() if name not in ("kind", "device", "problem", "versions")}
        ids = {"device_id": key[0], "problem_id": key[1], "current": 0}
        texts = {**_texts(record), "winner_versions": canonical_json(record["versions"])}
        if self._insert("winners", {**row, **ids, **texts}):
            self.added.rows["winners"] += 1
            if record["replaced_at"] is None:
                self._fresh.add(key)
        elif record["replaced_at"] is not None:
            self._db.execute(
                "UPDATE winners SET replaced_at = min(coalesce(replaced_at, ?1), ?1) WHERE uid = ?2",
                (record["replaced_at"], record["uid"]),
            )

    def _link(self) -> None:
        """Winners that came before their run find it now."""
        self._db.execute(
            "UPDATE winners SET run_id = (SELECT id FROM runs r WHERE r.uid = winners.run_uid) "
            "WHERE run_id IS NULL AND run_uid IN (SELECT uid FROM runs)"
        )
        self._db.execute(
            "UPDATE winners SET trial_id = (SELECT id FROM run_trials t WHERE t.run_id = winners.run_id "
            "AND t.number = winners.trial_number) "
            "WHERE trial_id IS NULL AND run_id IS NOT NULL AND trial_number IS NOT NULL"
        )

    def _choose(self, key: tuple[int, int, int], before: str | None) -> None:
        where = "WHERE device_id = ? AND problem_id = ? AND template_version = ?"
        living = self._db.execute(
            "SELECT uid, median_ns FROM winners "
            f"{where} AND replaced_at IS NULL ORDER BY {_MEASURED_HERE} DESC, median_ns, uid",
            (*key, socket.gethostname()),
        ).fetchall()
        self._db.execute(f"UPDATE winners SET current = 0 {where} AND current", key)
        if not living:
            return
        best, best_ns = living[0]
        self._db.execute("UPDATE winners SET current = 1 WHERE uid = ?", (best,))
        others = [ns for uid, ns in living[1:] if best == before or uid == before]
        if others and key in self._fresh:
            chip = self._db.execute("SELECT chip FROM devices WHERE id = ?", key[:1]).fetchone()[0]
            problem = self._db.execute("SELECT key FROM problems WHERE id = ?", key[1:2]).fetchone()[0]
            self.added.conflicts.append(Conflict(chip, problem, best_ns, others[0], best == before))

    def _problem(self, key: str) -> int:
        self._insert("problems", keys.row(key))
        return self._id("problems", "key", key)

    def _id(self, table: str, column: str, name: str) -> int:
        if (table, name) not in self._ids:
            found = self._db.execute(f"SELECT id FROM {table} WHERE {column} = ?", (name,)).fetchone()
            if found is None:
                raise KeyError(f"nothing is known of the {table[:-1]} {name}")
            self._ids[table, name] = found[0]
        return self._ids[table, name]

    def _insert(self, table: str, row: Mapping[str, Any]) -> bool:
        """Whether it was new."""
        marks = ", ".join(f":{name}" for name in row)
        return (
            self._db.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) ON CONFLICT DO NOTHING", dict(row)
            ).rowcount
            == 1
        )


def _texts(record: Record) -> dict[str, str | None]:
    """What a trial or a winner has as JSON, as its table has it."""
    state = record["state"]
    return {"config": canonical_json(record["config"]), "state": None if state is None else canonical_json(state)}
