"""Every column and every field with values that do not belong there: in one's own file, as JSON lines, merged.

A sample by default; all of some 7,000 with `-m slow`. No traceback, one line at most, nothing of one's own lost; no
case takes more than 5 s of this process's time, all together no more than 1 GB.
"""

import json
import random
import resource
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing, suppress

import pytest

from autotune.dashboard import build
from kernel_templates import registry
from kernel_templates.cpu import machine
from kernel_templates.space import Parameter, Space
from tuning_db import DatabaseError, jsonl, open_db, profiles
from tuning_db.profile_records import KernelLaunch, Profile, Provenance, Range, RuleFinding, SourceLine
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner
from tuning_db.timed_trials import timed_trials

KEYS = ("matvec:rows=64,cols=64,format=Q4_0,activation=int16", "matvec:rows=64,cols=128,format=Q4_0,activation=int16")
SAMPLE = 60

# As SQLite and as JSON can say them.
VALUES = [
    None, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 1.5, 32.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), "", "x",
    "0", "32", "yesterday", "9999-12-31T23:59:59.999999-23:59", "0001-01-01", "\x1b[2J", "é" * 70_000, "[]", "{}",
    '{"a":[1]}', '{"a":1e999}', "NaN",
    "[" * 100_000, '{"lanes":32.0}', '{"lanes":true}', "'; DROP TABLE runs; --", "\ud800",
]  # fmt: skip
ONLY_SQLITE = [b"", b"\x00\xff", b"x" * 8]
ONLY_JSON = [True, False, [], {}, [1], {"a": {"b": []}}, [[None]], 2**64, -(10**400), {"\ud800": 1}]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A database with rows in every table."""
    path, here = tmp_path_factory.mktemp("hostile") / "mine.db", machine.detect()
    version = registry.parse_problem(KEYS[0]).template_version
    with open_db(path) as db:
        db.set_ceilings(here, {"read_gb_s": 30.0, "int8_gop_s": 900.0})
        space = Space((Parameter("lanes", (16, 32, 64), 32, "lanes"),))
        for key in KEYS:
            run = db.begin_run(here, Run(key, version, "pool", 7, 96, 20_000, 1, {"commit": "abc"}), space)
            for lanes, ns in ((16, 3000.0), (32, 1100.0), (64, 1000.0)):
                timed = Measurement(ns * 0.9, ns, ns * 1.2, 30, {"mhz": [1.0, 2.0]})
                trial = db.record_trial(run, Trial({"lanes": lanes}, Outcome.OK, timed, 0.5, 1e-4, 1e-2))
            db.set_winner(here, Winner(key, version, {"lanes": 64}, timed, 4000.0, 1e-4, 1e-2, "float64"), run, trial)
            db.finish_run(run, "finished")
        finding = RuleFinding("rule", "section", "warning", "title", "text", 3.0, "global")
        launch = KernelLaunch(
            0, "kernel", grid=(1, 1, 1), block=(32, 1, 1), start_ns=1, duration_ns=5.0, range=0, problem=KEYS[0],
            config={"lanes": 32}, role="winner", findings=(finding,),
            lines=(SourceLine(0, "MOV", file="a.cu", line=1),),
        )  # fmt: skip
        about = Provenance("a.csv", "0" * 64, 9, "Nsight Compute", "ncu-csv", found=1)
        profiles.store(db, Profile(about, (launch,), (Range("decode"),), {"a.cu": "x"}))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
    return path


def read_all(path) -> None:
    """What commands ask for; a row that makes no sense is left out of each."""
    here = machine.detect()
    version = registry.parse_problem(KEYS[0]).template_version
    with open_db(path, readonly=True) as db:
        db.runs(), db.devices(), db.winners(history=True), db.ceilings(here), db.exported(), timed_trials(db), db.info()
        for key in (*KEYS, KEYS[0].replace("64", "96")):
            db.lookup(here, key, version), db.relatives(here, key, version), db.leaders(here, key, version, 9)
            db.past_trials(here, key, version), db.best(key)
        for stored in profiles.listed(db):
            with suppress(KeyError):
                profiles.load(db, stored.id)


def columns(path):
    with closing(sqlite3.connect(path)) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            (table, column)
            for table in tables
            if not table.startswith(("sqlite_", "schema_"))
            for _, column, *_ in raw.execute(f"PRAGMA table_info({table})")
        ]


def drawn(cases, all_of_them):
    return cases if all_of_them else random.Random(15).sample(cases, min(SAMPLE, len(cases)))


def changed(mine, path, table, column, value) -> bool:
    """A copy with one value in every row of a column, or where that is not possible in one row."""
    shutil.copy(mine, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for where in ("", " WHERE rowid = (SELECT min(rowid) FROM " + table + ")"):
            with suppress(sqlite3.IntegrityError, UnicodeEncodeError):
                raw.execute(f"UPDATE {table} SET {column} = ?{where}", (value,))
                return True
    return False


def used() -> tuple[float, int]:
    """Seconds of processor time, and bytes that this process had at most."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime, found.ru_maxrss << 10


def every(cases: Iterable[tuple], check: Callable[..., object]) -> None:
    """Check all of them, and say which failed."""
    wrong, count, at_first = [], 0, used()[1]
    for case in cases:
        what, begun, count = f"{case[:-1]} = {ascii(case[-1])[:60]}", used()[0], count + 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(*case)
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
        if (seconds := used()[0] - begun) > 5:
            wrong.append(f"{what}: {seconds:.1f} s")
    grown = used()[1] - at_first
    print(f"{count} cases, {grown / 1e6:.0f} MB")
    assert count >= SAMPLE and grown < 1 << 30
    assert not wrong, "\n".join([f"{len(wrong)} of {count} cases:", *wrong[:30]])


AMOUNT = pytest.mark.parametrize(
    "all_of_them", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["sample", "all"]
)  # fmt: skip


@AMOUNT
def test_ones_own_file_can_be_read_and_repaired(mine, tmp_path, autotune, all_of_them) -> None:
    path, other = tmp_path / "own.db", tmp_path / "other.db"
    with open_db(mine, readonly=True) as db:
        whole = db.exported()

    def check(number, table, column, value) -> None:
        if not changed(mine, path, table, column, value):
            return
        try:
            read_all(path)
        except DatabaseError as error:
            assert "\n" not in str(error)
        if number % 10 == 0:
            build.html(path)
            for words in (("db", "list"), ("db", "list", "--runs"), ("db", "explain", KEYS[0]), ("db", "export")):
                result = autotune(*words, "--db", path)
                assert result.exit_code in (0, 2) and "Traceback" not in result.stderr, words
        shutil.copy(mine, other)
        with open_db(path, readonly=True) as theirs, open_db(other) as db:
            db.add(theirs.exported(left_out=[]))
            known = db.exported()
            assert all(record in known for record in whole if record["kind"] in ("device", "trial", "space"))
            assert len(db.winners()) == 2
        with open_db(path) as db:
            db.repair()
            assert not db.repair()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_all(path)

    cases = drawn([(*place, value) for place in columns(mine) for value in [*VALUES, *ONLY_SQLITE]], all_of_them)
    every(((number, *case) for number, case in enumerate(cases)), check)


@AMOUNT
def test_json_lines_are_added_or_left_out(mine, tmp_path, all_of_them) -> None:
    with open_db(mine, readonly=True) as db:
        whole = db.exported()
    kinds = {record["kind"]: record for record in whole}
    path = tmp_path / "other.db"

    def check(kind, field, value) -> None:
        record = {**kinds[kind], field: value}
        if "uid" in record and field != "uid":
            record["uid"] = "other"
        lines = [json.dumps(record) for record in ({"autotune_db": 2}, *whole, record)]
        shutil.copy(mine, path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with open_db(path) as db:
                added = db.add(jsonl.read_text("\n".join(lines), "x", left_out := []))
                assert all("\n" not in reason for reason in (*left_out, *added.left_out))
                known = db.exported()
                assert all(record in known for record in whole if record["kind"] in ("device", "trial", "space"))
                assert len(db.winners()) >= 2 and len(db.runs()) >= 2
            read_all(path)

    fields = [(kind, field) for kind, record in kinds.items() for field in record]
    every(drawn([(*place, value) for place in fields for value in [*VALUES, *ONLY_JSON]], all_of_them), check)
