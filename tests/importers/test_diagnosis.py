"""The rules of diagnosis on launches with few counters: each claims only what was counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.profiling import diagnosis
from autotune.profiling import launch_metrics as m
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, RuleFinding


def launch(name="k", findings=(), **values):
    """SM, L1, ... of launch_metrics by their names there, other metrics by their own."""
    known = {getattr(m, key, key): float(value) for key, value in values.items()}
    columns = Columns(tuple(known), ("",) * len(known))
    return KernelLaunch(0, name, metrics=Metrics(columns, np.array(list(known.values()))), findings=tuple(findings))


def causes(*launches):
    return [[f.cause for f in found] for found in diagnosis.diagnose_all(launches)]


def test_nothing_is_said_of_what_was_not_counted():
    """Occupancy alone says nothing about how busy anything is."""
    limits = {"launch__occupancy_limit_registers": 2, "launch__occupancy_limit_warps": 16}
    assert causes(launch(POSSIBLE=12.5, **limits)) == [[]]
    assert causes(launch(POSSIBLE=12.5, SM=57, **limits)) == [[]]  # memory may be busier
    assert causes(launch(POSSIBLE=12.5, SM=10, MEMORY=20, **limits)) == [["low occupancy"]]
    assert causes(launch(POSSIBLE=12.5, SM=10, L1=20, L2=5, DRAM=5, **limits)) == [["low occupancy"]]
    assert causes(launch(SM=90)) == [[]] and causes(launch(DRAM=91)) == [[]]


@pytest.mark.parametrize(
    ("level", "others", "share"), [("L1", {"L2": 10.5, "DRAM": 9.4}, 84), ("L2", {"L1": 40}, 77), ("DRAM", {}, 91)]
)
def test_a_kernel_is_bound_by_its_busiest_level(level, others, share):
    (found,) = diagnosis.diagnose(launch(SM=61.25, **{level: share}, **others))
    assert found.cause == "memory-bound" and level in found.title and f"{share}%" in found.text


def test_dram_by_its_name_until_2020():
    (found,) = diagnosis.diagnose(launch(SM=15, **{m.BEFORE[m.DRAM]: 91}))
    assert "DRAM works at 91%" in found.text and m.BEFORE[m.DRAM] in [metric.name for metric in found.metrics]


def test_a_naive_product_is_bound_by_l1_though_multiprocessors_are_busy():
    (found,) = diagnosis.diagnose(launch(SM=83.1, L1=84.1, L2=10.5, DRAM=9.4))
    assert "L1" in found.title and "84%" in found.text


@pytest.mark.parametrize(("threads", "idle"), [(1, 31 / 32), (16, 0.5), (33, 31 / 64), (32, 0), (128, 0), (96, 0)])
def test_blocks_that_do_not_fill_their_warps(threads, idle):
    found = [f for f in diagnosis.diagnose(launch(BLOCK=threads)) if f.cause == "block size"]
    assert [f.gain for f in found] == ([pytest.approx(idle)] if idle else [])


def test_one_thread_blocks_come_before_the_occupancy_that_they_cause():
    one = launch(
        GRID=16e6, BLOCK=1, UNITS=34, POSSIBLE=50, SM=14.8, L1=35, L2=19.6, DRAM=53.3,
        launch__occupancy_limit_blocks=16, launch__occupancy_limit_warps=32,
    )  # fmt: skip
    assert causes(one) == [["block size", "low occupancy"]]


@pytest.mark.parametrize(
    ("counters", "said"),
    [
        ({"UNITS": 132}, "leaves 131 of 132"),
        ({"UNITS_OF_DEVICE": 80}, "leaves 79 of 80"),  # reports of 2023 and before
        ({"WAVES": 1 / (16 * 40), "launch__occupancy_limit_warps": 16}, "leaves at least 39 of 40"),
        ({"WAVES": 0.0026}, "leaves at least 12 of 13"),  # no multiprocessor holds more than 32 blocks
    ],
)
def test_a_tiny_grid_is_found_whatever_tells_the_multiprocessors(counters, said):
    (found,) = diagnosis.diagnose(launch(GRID=1, **counters))
    assert found.cause == "latency-bound tiny grid" and said in found.text


def test_a_grid_that_fills_the_gpu_is_not_tiny():
    assert causes(launch(GRID=1024, WAVES=1.0), launch(GRID=132, UNITS=132), launch(GRID=1)) == [[], [], []]


TRANSPOSE = {"SM": 15, "L1": 19, "L2": 38, "DRAM": 94, "FETCHED": 64e6, "SENT": 64e6}
REDUCE = TRANSPOSE | {"SENT": 1e3}


def test_a_round_trip_is_one_of_two_kernels_that_pass_data_on():
    fill, add = launch("scale", **TRANSPOSE), launch("reduce", **REDUCE)
    assert [found[0] for found in causes(fill, add)] == ["unfused round trip"] * 2


@pytest.mark.parametrize(
    "names",
    [
        ["transpose_v0", "transpose_v1"], ["transposeNaive", "transposeCoalesced"], ["copy", "copy"], ["k1", "k2"],
        ["void add<float, 4>(float *)", "void add<float, 8>(float *)"], ["a", "b", "c"], ["a", "a", "b", "b"],
    ],
)  # fmt: skip
def test_variants_measured_one_after_another_are_no_round_trip(names):
    assert not any("unfused round trip" in found for found in causes(*(launch(n, **TRANSPOSE) for n in names)))


def test_a_round_trip_needs_both_kernels_counters():
    half = {key: value for key, value in TRANSPOSE.items() if key != "DRAM"}
    assert not any("unfused round trip" in found for found in causes(launch("a", **half), launch("b", **TRANSPOSE)))


def rule(gain, scope="global", kind="optimization"):
    return RuleFinding("SomeRule", "Section", kind, "Some title", "Do something.", gain, scope)


def test_the_tools_rules_are_ranked_by_half_of_what_they_promise():
    (theirs,) = diagnosis.diagnose(launch(findings=[rule(60.0)]))
    assert (theirs.cause, theirs.gain, theirs.weight) == ("SomeRule", 0.6, 0.3)
    assert theirs.heading == "Some title (Nsight Compute's rule)"
    bound = {"SM": 15, "DRAM": 94}
    assert causes(launch(findings=[rule(60.0)], **bound)) == [["SomeRule", "memory-bound"]]
    assert causes(launch(findings=[rule(30.0)], **bound)) == [["memory-bound", "SomeRule"]]
    assert causes(launch(findings=[rule(None, None)], **bound)) == [["memory-bound", "SomeRule"]]
    assert causes(launch(findings=[rule(90.0, "local"), rule(90.0, kind="ok")])) == [[]]


SHARES = ("SM", "L1", "L2", "DRAM", "POSSIBLE")
COUNTED = (
    "ACTUAL", "IDEAL", "CONFLICTS", "WAVEFRONTS", "DRAM_READ", "DRAM_WRITE", "NEEDED",
    *(f"{m.SECTORS}{space}_op_{op}.sum" for space, op in (("local", "ld"), ("local", "st"))),
    *(f"{begin}global_op_{op}.sum" for begin in (m.SECTORS, m.REQUESTS) for op in ("ld", "st", "atom", "red")),
)  # fmt: skip


@given(
    st.fixed_dictionaries({name: st.integers(0, 100) for name in SHARES}),
    st.fixed_dictionaries({name: st.integers(0, 10**6) for name in COUNTED}),
    st.sets(st.sampled_from([*SHARES, *COUNTED])),
)
def test_leaving_counters_out_makes_no_new_claims(shares, counts, missing):
    full = {**shares, **counts, "MEMORY": max(shares[name] for name in ("L1", "L2", "DRAM"))}
    less = {name: value for name, value in full.items() if name not in missing}
    (with_all,), (without,) = causes(launch(**full)), causes(launch(**less))
    assert set(without) <= set(with_all)
    for found in diagnosis.diagnose(launch(**less)):
        assert found.metrics
