"""Why no kernel ran: every nanosecond without one has one cause, and what the trace does not show stays unknown."""

import generators as make
import numpy as np
from generators import Copy, Kernel
from hypothesis import given
from hypothesis import strategies as st
from importing import import_file

from autotune.profiling.nvtx_tree import range_tree
from autotune.profiling.trace_idle import CAUSES, without_kernel
from autotune.profiling.trace_time import shares
from tuning_db import profiles, traces
from tuning_db.profile_records import HostWait, Range, RowKind
from tuning_db.trace_records import KINDS, NEVER, Trace

KINDS_BY_NAME = {kind.value: place for place, kind in enumerate(KINDS)}


def trace(rows, waits=(), ranges=()) -> Trace:
    """rows: (kind, start, length, called or None, range or -1)."""
    rows = sorted(rows, key=lambda row: row[1])
    column = lambda values, kind=np.int64: np.array(list(values), kind)  # noqa: E731
    nothing = np.full(len(rows), -1, np.int64)
    return Trace(
        ("k",), (), {}, tuple(ranges), column((KINDS_BY_NAME[row[0]] for row in rows), np.uint8),
        np.zeros(len(rows), np.int32), column(row[1] for row in rows), column(row[2] for row in rows),
        np.zeros(len(rows), np.int64), nothing, nothing, column((row[4] for row in rows), np.int32), nothing,
        nothing.astype(np.int32), np.arange(len(rows)),
        column(NEVER if row[3] is None else row[3] for row in rows), tuple(waits),
    )  # fmt: skip


def told(found) -> list[tuple[int, int, str]]:
    names = [CAUSES[cause].short for cause in found.cause.tolist()]
    return list(zip(found.start_ns.tolist(), found.end_ns.tolist(), names, strict=True))


def test_each_gap_is_told_by_what_ran_next(tmp_path, db):
    path = make.nsys_sqlite(
        tmp_path / "t.sqlite",
        [Kernel("a", 100, 1000, 2000), Kernel("a", 200, 2100, 3000), Kernel("b", 8000, 9000, 9500)],
        [], [Copy(3100, 3200, 4000, 4096), Copy(9600, 9900, 9950, 8, kind=None)], [(3300, 6000)],
    )  # fmt: skip
    number = import_file(path, db).profile
    assert told(without_kernel(traces.load(db, number), 0)) == [
        (2000, 2100, "held back"),  # called long before the GPU was idle
        (3000, 3100, "host late"), (3100, 3200, "launching"), (3200, 4000, "copying"),
        (4000, 6000, "host waiting"), (6000, 8000, "host late"), (8000, 9000, "launching"),
        (9500, 9600, "host late"), (9600, 9900, "launching"), (9900, 9950, "filling"),
    ]  # fmt: skip
    assert profiles.waits(db, number) == (HostWait("cudaStreamSynchronize", 3300, 6000, 66, 4242),)
    assert profiles.load(db, number).launches[0].called_ns == 100


def test_without_a_call_the_cause_is_unknown():
    assert told(without_kernel(trace([("kernel", 0, 5, None, -1), ("kernel", 9, 1, None, -1)]), 0)) == [
        (5, 9, "unknown")
    ]


def test_another_gpu_has_no_time():
    assert told(without_kernel(trace([("kernel", 0, 5, None, -1)]), 3)) == []


row = st.tuples(
    st.sampled_from(["kernel", "graph", "copy", "fill"]), st.integers(0, 60), st.integers(0, 9),
    st.one_of(st.none(), st.integers(-9, 70)), st.just(-1),
)  # fmt: skip
wait = st.tuples(st.integers(-5, 60), st.integers(0, 30)).map(lambda pair: HostWait("w", pair[0], sum(pair)))


@given(st.lists(row, min_size=1, max_size=9), st.lists(wait, max_size=4))
def test_every_moment_without_a_kernel_has_one_cause(rows, waits):
    found = trace(rows, waits)
    spans, total = without_kernel(found, 0), shares(found, 0)
    assert (spans.end_ns > spans.start_ns).all() and (spans.start_ns[1:] >= spans.end_ns[:-1]).all()
    times = [spans.total_ns(cause) for cause in range(len(CAUSES))]
    assert times[0] == total.copies_ns and times[1] == total.fills_ns and sum(times[2:]) == total.idle_ns
    assert sum(times) == total.span_ns - total.kernels_ns


def test_a_ranges_gpu_time_is_its_own_and_that_inside():
    ranges = (
        Range("step", None, "", 1, 0, 50), Range("layer", 0, "", 1, 0, 20), Range("layer", 0, "", 1, 20, 40),
        Range("step", None, "", 1, 50, None), Range("layer", 3, "lib", 1, 50, 60),
    )  # fmt: skip
    rows = [("kernel", 0, 5, 0, 0), ("copy", 6, 2, 0, 1), ("kernel", 9, 1, 0, 2), ("kernel", 60, 7, 0, 4),
            ("fill", 70, 3, 0, -1)]  # fmt: skip
    tree = range_tree(trace(rows, (), ranges))
    assert [(node.path, node.count, node.gpu_ns, node.wall_ns, node.launched, node.own) for node in tree] == [
        (("step",), 2, 15, None, 4, 1),  # a range without an end: its length is unknown, not zero
        (("step", "lib: layer"), 1, 7, 10, 1, 1),
        (("step", "layer"), 2, 3, 40, 2, 2),
    ]
    assert RowKind.COPY in KINDS


def test_no_ranges_are_no_tree():
    assert range_tree(trace([("kernel", 0, 5, None, -1)])) == []
