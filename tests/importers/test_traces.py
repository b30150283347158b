"""Copies and fills beside kernels: imported as such, and a trace's time adds up to the nanosecond."""

import sqlite3

import generators as make
import numpy as np
import pytest
from generators import Copy, Kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from importing import import_file

from autotune.importers import memory_operations, nsys_sqlite
from autotune.profiling import trace_time
from tuning_db import open_db, profiles, traces
from tuning_db.errors import LeftOut
from tuning_db.profile_records import RowKind

KERNELS = [Kernel("a", 10, 100, 300), Kernel("b", 20, 250, 400), Kernel("c", 30, 1000, 1100, device=1)]
COPIES = [
    Copy(5, 0, 90, 4096), Copy(25, 350, 500, 64, kind=2), Copy(27, 500, 600, 8, kind=None), Copy(28, 580, 700, 1, 10)
]  # fmt: skip
# Every stretch between two edges, and whether anything of each table runs in it: slow, but nothing like our own way.
TOTALS = """
WITH work AS (
    SELECT 'kernel' AS kind, start, end FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE :gpu IS NULL OR deviceId = :gpu
    UNION ALL SELECT 'copy', start, end FROM CUPTI_ACTIVITY_KIND_MEMCPY WHERE :gpu IS NULL OR deviceId = :gpu
    UNION ALL SELECT 'fill', start, end FROM CUPTI_ACTIVITY_KIND_MEMSET WHERE :gpu IS NULL OR deviceId = :gpu
), edges AS (SELECT start AS at FROM work UNION SELECT end FROM work),
stretches AS (SELECT at AS low, lead(at) OVER (ORDER BY at) AS high FROM edges),
told AS (
    SELECT high - low AS length, (
        SELECT min(CASE kind WHEN 'kernel' THEN 1 WHEN 'copy' THEN 2 ELSE 3 END)
        FROM work WHERE start <= low AND end >= high
    ) AS class FROM stretches WHERE high IS NOT NULL
)
SELECT coalesce((SELECT max(end) - min(start) FROM work), 0), coalesce(sum(length) FILTER (WHERE class = 1), 0),
    coalesce(sum(length) FILTER (WHERE class = 2), 0), coalesce(sum(length) FILTER (WHERE class = 3), 0),
    coalesce(sum(length) FILTER (WHERE class IS NULL), 0) FROM told
"""


def by_sql(path, gpu=None):
    """(span, kernels, copies, fills, idle) of an export."""
    with sqlite3.connect(path) as db:
        return db.execute(TOTALS, {"gpu": gpu}).fetchone()


def as_tuple(found):
    return found.span_ns, found.kernels_ns, found.copies_ns, found.fills_ns, found.idle_ns


def test_copies_and_fills_are_rows_of_their_own(tmp_path):
    profile = nsys_sqlite.read(make.nsys_sqlite(tmp_path / "t.sqlite", KERNELS, [("step", 0, 26)], COPIES))
    rows = [(x.kind, x.kernel, x.bytes, x.direction, x.device, x.duration_ns) for x in profile.launches]
    assert rows == [
        (RowKind.COPY, "[CUDA memcpy HtoD]", 4096, "HtoD", 0, 90), (RowKind.KERNEL, "a", None, None, 0, 200),
        (RowKind.KERNEL, "b", None, None, 0, 150), (RowKind.COPY, "[CUDA memcpy DtoH]", 64, "DtoH", 0, 150),
        (RowKind.FILL, "[CUDA memset]", 8, None, 0, 100), (RowKind.COPY, "[CUDA memcpy PtoP]", 1, "PtoP", 0, 120),
        (RowKind.KERNEL, "c", None, None, 1, 100),
    ]  # fmt: skip
    assert [x.range for x in profile.launches] == [0, 0, 0, 0, None, None, None], "copies are in ranges as well"
    assert {x.process for x in profile.launches} == {make.PROCESS >> 24 & 0xFFFFFF}
    assert profile.provenance.devices == {0: "NVIDIA H100 80GB HBM3"}


def test_the_trace_is_what_was_stored(tmp_path, db):
    summary = import_file(make.nsys_sqlite(tmp_path / "t.sqlite", KERNELS, [("step", 0, 26)], COPIES), db)
    trace, profile = traces.load(db, summary.profile), profiles.load(db, summary.profile)
    for at, launch in enumerate(profile.launches):
        assert trace.names[trace.name[at]] == launch.kernel and trace.place[at] == launch.place == at
        assert (trace.start_ns[at], trace.duration_ns[at]) == (launch.start_ns, launch.duration_ns)
        known = (launch.device, launch.process, launch.stream, launch.bytes, launch.range)
        there = (trace.device[at], trace.process[at], trace.stream[at], trace.bytes[at], trace.range[at])
        assert there == tuple(traces.UNKNOWN if value is None else value for value in known)
        way = trace.directions[trace.direction[at]] if trace.direction[at] >= 0 else None
        assert way == launch.direction
    assert (trace.ranges, trace.devices) == (profile.ranges, profile.provenance.devices)


def test_time_adds_up_as_sql_adds_it(tmp_path, db):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", KERNELS, [], COPIES)
    trace = traces.load(db, import_file(path, db).profile)
    assert as_tuple(trace_time.shares(trace)) == by_sql(path) == (1100, 400, 310, 80, 310)
    for gpu in (0, 1, 2):
        assert as_tuple(trace_time.shares(trace, gpu)) == by_sql(path, gpu), gpu


# From 1 on: 0 to 0 is what CUPTI gives where it has no time.
interval = st.tuples(st.integers(1, 300), st.integers(0, 60), st.integers(0, 2), st.integers(0, 1))


@pytest.fixture(scope="module")
def one_db(tmp_path_factory):
    with open_db(tmp_path_factory.mktemp("all") / "tuning.db") as opened:
        yield opened


@settings(max_examples=15, deadline=None)
@given(st.lists(interval, max_size=12), st.lists(interval, min_size=1, max_size=12))
def test_any_intervals_add_up(one_db, tmp_path_factory, kernels, copies):
    folder = tmp_path_factory.mktemp("any")
    path = make.nsys_sqlite(
        folder / "t.sqlite",
        [Kernel("k", 0, start, start + length, device=gpu) for start, length, _, gpu in kernels], [],
        [Copy(0, s, s + length, 1, None if kind == 0 else kind, gpu) for s, length, kind, gpu in copies],
    )  # fmt: skip
    trace = traces.load(one_db, import_file(path, one_db).profile)
    for gpu in (None, 0, 1):
        found = as_tuple(trace_time.shares(trace, gpu))
        assert found == by_sql(path, gpu) and found[0] == sum(found[1:])
    together = trace_time.busy(trace, np.ones(len(trace), bool))
    assert (together[:-1, 1] < together[1:, 0]).all()
    all_of_it = trace_time.shares(trace)
    assert int((together[:, 1] - together[:, 0]).sum()) == all_of_it.span_ns - all_of_it.idle_ns


def test_a_row_without_sense_hides_no_other(tmp_path, db):
    number = import_file(make.nsys_sqlite(tmp_path / "t.sqlite", KERNELS, [], COPIES), db).profile
    db._connection.execute("UPDATE profile_launches SET device = 'x' WHERE kernel = 'a'")
    db._connection.execute("UPDATE profile_launches SET start_ns = -(1 << 62) - 9 WHERE kernel = 'b'")
    with pytest.warns(LeftOut, match=r"device cannot be|start_ns cannot be"):
        assert set(traces.load(db, number).names) == {"c", *(n for n in traces.load(db, number).names if "CUDA" in n)}


def test_a_profile_without_times_has_an_empty_trace(tmp_path, db):
    number = import_file(make.ncu_raw_csv(tmp_path / "raw.csv", 2, 3), db).profile
    trace = traces.load(db, number)
    assert len(trace) == 0 and as_tuple(trace_time.shares(trace)) == (0, 0, 0, 0, 0)
    with pytest.raises(KeyError):
        traces.load(db, number + 1)


@pytest.mark.parametrize(
    ("spelled", "name", "direction"),
    [
        ("[CUDA memcpy HtoD]", "[CUDA memcpy HtoD]", "HtoD"),
        ("[CUDA memcpy Host-to-Device]", "[CUDA memcpy HtoD]", "HtoD"),
        ("[CUDA memcpy Peer-to-Peer]", "[CUDA memcpy PtoP]", "PtoP"),
        ("[CUDA memcpy Array-to-Host]", "[CUDA memcpy AtoH]", "AtoH"),
        ("[CUDA memcpy Unified Device-to-Host]", "[CUDA memcpy Unified DtoH]", "Unified DtoH"),
        ("[CUDA Unified Memory memcpy DtoH]", "[CUDA memcpy Unified DtoH]", "Unified DtoH"),
        ("[CUDA memcpy Unified H2D]", "[CUDA memcpy Unified HtoD]", "Unified HtoD"),
        ("[CUDA memset]", "[CUDA memset]", None),
        ("[CUDA memset Device]", "[CUDA memset]", None),
    ],
)
def test_every_spelling_of_a_copy_has_one_name(spelled, name, direction):
    kind = RowKind.FILL if direction is None else RowKind.COPY
    assert memory_operations.parse(spelled) == (kind, name, direction)


@pytest.mark.parametrize("kernel", ["memcpy_kernel", "void copy<float>(float*)", "[x]", ""])
def test_a_kernel_is_no_copy(kernel):
    assert memory_operations.parse(kernel) is None
