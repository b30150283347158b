"""Profiles in the database: what goes in comes out, and a new import of a file leaves nothing of the old one."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.profiling import store_profile
from tuning_db import DatabaseError, open_db, profiles
from tuning_db import profile_records as records
from tuning_db.errors import LeftOut

COLUMNS = records.Columns(("a.sum", "b.pct"), ("byte", "%"))
ABOUT = records.Provenance(
    "x.ncu-rep",
    "ab" * 32,
    3,
    "Nsight Compute",
    "ncu-rep",
    "2025.3",
    "H100",
    {"sm": 1.5e9},
    "f00",
    "2026-01-01",
    2,
    3,
    "cut",
    {0: "GPU A", 7: "GPU B"},
)  # fmt: skip
PROFILE = records.Profile(
    ABOUT,
    (
        records.KernelLaunch(
            0,
            "k",
            grid=(1, 2, 3),
            block=(4, 5, 6),
            start_ns=7,
            duration_ns=12.5,
            stream=7,
            range=1,
            metrics=records.Metrics(COLUMNS, np.array([1.0, np.nan]), {"t": "word"}),
            findings=(
                records.RuleFinding("r", "s", "ok", "t", "x", 12.0, "global", (records.Metric("a.sum", "byte", 1.0),)),
            ),
            lines=(records.SourceLine(16, "LDG", "ld", "f.py", 3, 7, {"wait": 2}),),
        ),
        records.KernelLaunch(
            1, "graph 1", records.RowKind.GRAPH, problem="matvec:rows=1", config={"a": 1}, role="winner", count=3
        ),
        records.KernelLaunch(
            2, "[CUDA memcpy HtoD]", records.RowKind.COPY, device=7, process=42, bytes=1 << 40, direction="HtoD"
        ),
    ),
    (records.Range("token", None, "d", 1, 0, 9, records.START_END), records.Range("qkv", 0)),
    {"f.py": "x = 1\n"},
    (
        records.ReportTable("nvtx_sum", "Ranges", ("range", "time"), ("", "ns"), (("step", 5.0), (None, 7))),
        records.ReportTable("empty", "Nothing", ("x",), ("",), ()),
    ),
)


def test_out_as_in(db):
    number = profiles.store(db, PROFILE)
    got = profiles.load(db, number)
    assert (got.provenance, got.ranges, got.sources) == (PROFILE.provenance, PROFILE.ranges, PROFILE.sources)
    assert got.tables == PROFILE.tables
    for one, other in zip(PROFILE.launches, got.launches, strict=True):
        assert dict(one.metrics) == dict(other.metrics)
        names = [name for name in records.KernelLaunch.__dataclass_fields__ if name != "metrics"]
        assert all(getattr(one, name) == getattr(other, name) for name in names)
    assert got.launches[0].metrics.number("b.pct") is None and got.launches[0].lines[0].samples == 2
    assert profiles.of_problem(db, "matvec:rows=1") == [number] and profiles.of_problem(db, "x") == []
    (listed,) = profiles.listed(db)
    assert (listed.rows, listed.total_ns, listed.provenance.partial) == (3, 12.5, True)


def test_again_replaces_all_of_it(db):
    profiles.store(db, PROFILE)
    profiles.store(db, records.Profile(ABOUT, PROFILE.launches[1:2]))
    for table, rows in {"profiles": 1, "profile_launches": 1, "profile_findings": 0, "profile_lines": 0,
                        "profile_ranges": 0, "profile_sources": 0, "profile_tables": 0, "profile_waits": 0,
                        "profile_table_rows": 0}.items():  # fmt: skip
        assert db._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == rows, table


def test_a_failure_keeps_what_was_there(db):
    profiles.store(db, PROFILE)
    with pytest.raises(ValueError, match="stream cannot be"):
        profiles.store(db, records.Profile(ABOUT, (records.KernelLaunch(0, "k", stream=1 << 70),)))
    assert len(profiles.load(db, profiles.listed(db)[0].id).launches) == 3


def test_none_and_damaged(db):
    with pytest.raises(KeyError):
        profiles.load(db, 5)
    number = profiles.store(db, PROFILE)
    db._connection.execute("UPDATE profile_launches SET metric_values = x'00' WHERE place = 0")
    with pytest.warns(LeftOut, match="metric_values cannot be"):
        found = profiles.load(db, number)
    assert [one.place for one in found.launches] == [one.place for one in PROFILE.launches[1:]]
    assert db.repair()[0].table == "profile_launches" and not db.repair()
    db._connection.execute("UPDATE profile_launches SET metric_values = zeroblob(800)")
    with pytest.warns(LeftOut, match="100 values stand for"):
        profiles.load(db, number)
    assert "100 values stand for" in db.repair()[0].reason and not db.repair()


def test_reading_needs_no_writing(db):
    profiles.store(db, PROFILE)
    with open_db(db.path, readonly=True) as reader:
        assert profiles.listed(reader)
        with pytest.raises(DatabaseError, match="read-only"):
            profiles.store(reader, PROFILE)


def test_an_unknown_time_is_not_zero(db):
    timed, untimed = records.KernelLaunch(0, "k", duration_ns=2500.0), records.KernelLaunch(1, "k")
    for number, (launches, total, said) in enumerate(
        (
            ((untimed,), None, "times unknown;"),
            ((timed, untimed), 2500.0, "2.5 µs in all, 1 without a time;"),
            ((timed,), 2500.0, "2.5 µs in all;"),
        )
    ):
        about = replace(ABOUT, sha256=f"{number}" * 64, found=len(launches), expected=None)
        summary = store_profile.store(records.Profile(about, launches), db)
        assert summary.total_ns == total and said in summary.line
        assert profiles.listed(db)[-1].total_ns == total
