"""NVTX ranges around launches: pushed by a thread, started and ended by a process, several domains, marks."""

import sqlite3

import generators as make
import pytest
from generators import Kernel
from hypothesis import given
from hypothesis import strategies as st

from autotune import UserError
from autotune.importers import nsys_sqlite
from autotune.importers.nvtx_ranges import PROCESS, NvtxRange, nested
from tuning_db.profile_records import PUSH_POP, START_END

T, OTHER = make.THREAD, make.THREAD + 1
ELSEWHERE = make.THREAD + (1 << 24)  # a thread of another process


def ranges(*found):
    return [NvtxRange(start, end, thread, name, style) for name, start, end, thread, style in found]


def owners(found, *calls):
    """Names of the ranges that these (thread, time) are in."""
    placed, places = nested(found, list(calls))
    return [None if place is None else placed[place].name for place in places]


def test_started_ranges_hold_calls_of_every_thread_of_their_process():
    found = ranges(("decode", 0, 100, T, START_END))
    assert owners(found, (T, 5), (OTHER, 5), (ELSEWHERE, 5), (T, 100)) == ["decode", "decode", None, None]


def test_what_began_last_is_the_innermost():
    found = ranges(
        ("a", 0, 100, T, START_END), ("b", 50, 150, T, START_END), ("pushed", 60, 70, T, PUSH_POP),
        ("inside", 62, 68, T, START_END),
    )  # fmt: skip
    assert owners(found, (T, 10), (T, 55), (T, 61), (T, 65), (OTHER, 65), (T, 69), (T, 120)) == [
        "a", "b", "pushed", "inside", "inside", "pushed", "b",
    ]  # fmt: skip
    parents = {r.name: r.parent for r in nested(found, [])[0]}
    assert parents == {"a": None, "b": None, "pushed": 1, "inside": 2}, "a and b overlap; neither is in the other"


def test_a_call_without_a_range_or_a_call_that_is_not_known():
    assert owners(ranges(("r", 5, 5, T, PUSH_POP)), (T, 5), None) == [None, None]
    assert owners([], (T, 5)) == [None]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20), st.booleans(), st.integers(0, 1)), max_size=14),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60)), max_size=8),
)
def test_as_a_search_of_all_ranges_finds_it(drawn, asked):
    found = [
        NvtxRange(start, start + length, T + thread, str(i), START_END if shared else PUSH_POP)
        for i, (start, length, shared, thread) in enumerate(drawn)
    ]
    placed, places = nested(found, [(T + thread, time) for thread, time in asked])
    ordered = sorted(found, key=lambda one: (one.start, -one.end))
    assert [r.name for r in placed] == [one.name for one in ordered]

    def last(thread, time, end, before):
        holding = [
            at for at, one in enumerate(ordered[:before])
            if one.start <= time < one.end and one.end >= end
            and (one.thread == thread if one.style == PUSH_POP else one.thread & PROCESS == thread & PROCESS)
        ]  # fmt: skip
        return max(holding, default=None)

    for (thread, time), place in zip(asked, places, strict=True):
        assert place == last(T + thread, time, time + 1, len(ordered))
    for at, (one, range_) in enumerate(zip(ordered, placed, strict=True)):
        assert range_.parent == last(one.thread, one.start, one.end, at)


def changed(path, *statements):
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    return path


def test_an_exports_started_ranges_domains_and_what_is_left_out(tmp_path):
    kernels = [Kernel("k", 150, 1000, 5000), Kernel("l", 350, 6000, 7000)]
    path = make.nsys_sqlite(tmp_path / "t.sqlite", kernels, [("decode", 100, 200), ("prefill", 300, 400)])
    row = "INSERT INTO NVTX_EVENTS VALUES ({}, {}, {}, NULL, {}, {}, {}, NULL)"
    changed(
        path,
        "UPDATE NVTX_EVENTS SET eventType = 60, rangeId = rowid, domainId = 3 WHERE start = 100",
        row.format(5, "NULL", 75, "'NCCL'", T, 3),  # the domain's name
        row.format(120, "NULL", 34, "'here'", T, 0),
        row.format(130, "NULL", 34, "'here'", T, 0),
        row.format(140, "NULL", 59, "'never popped'", T, 0),
    )
    profile = nsys_sqlite.read(path)
    assert [profile.ranges[x.range].name for x in profile.launches] == ["decode", "prefill"]
    assert [(r.style, r.domain) for r in profile.ranges] == [(START_END, "NCCL"), (PUSH_POP, "")]
    assert profile.provenance.note == "left out: 2 NVTX marks, 1 NVTX range without an end"


@pytest.mark.parametrize("change", ["start = 'x'", "end = 1.5", "globalTid = 'x'"])
def test_a_range_without_sense_is_refused(tmp_path, change):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 150, 1000, 5000)], [("decode", 100, 200)])
    with pytest.raises(UserError, match=r"is damaged .a row of NVTX_EVENTS makes no sense"):
        nsys_sqlite.read(changed(path, f"UPDATE NVTX_EVENTS SET {change}"))
