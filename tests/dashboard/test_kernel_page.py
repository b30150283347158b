"""The page "Kernel" where little is known: unknown is not zero, and whose rule it is stands beside it."""

from dataclasses import replace

import numpy as np

from autotune.dashboard.human_units import human_cell
from autotune.dashboard.page_data import ProfiledLaunch
from autotune.dashboard.pages import kernel
from autotune.profiling import diagnosis
from autotune.profiling import launch_metrics as m
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance, RuleFinding

PROFILE = Profile(Provenance("r.ncu-rep", "0" * 64, 1, "Nsight Compute", "ncu-rep"))
TINY = Metrics(Columns((m.GRID, m.UNITS), ("", "")), np.array([1.0, 100.0]))


def entries(*launches):
    return tuple(ProfiledLaunch(PROFILE, one, tuple(diagnosis.diagnose(one)), (one,)) for one in launches)


def test_a_launch_of_unknown_time_is_not_the_one_with_the_most_to_gain():
    untimed = KernelLaunch(0, "untimed", metrics=TINY)
    told = kernel._answer(entries(untimed))
    assert "most time to gain" not in told and "most frequent finding is: there are fewer blocks" in told
    told = kernel._answer(entries(untimed, replace(untimed, kernel="timed", duration_ns=5000.0)))
    assert "The most time to gain is in timed:" in told


def test_an_unknown_time_is_a_dash():
    (row,) = kernel._index(entries(KernelLaunch(0, "untimed", metrics=TINY)), [0], [0]).rows
    assert row[3] == human_cell(None, "ns") and row[3].text == "–"


def test_a_rule_of_the_report_is_marked_and_told_once():
    rule = RuleFinding("SomeRule", "S", "optimization", "Some title", "Do something.", 60.0, "global")
    local = replace(rule, title="Of a part", gain_scope="local")
    (entry,) = entries(KernelLaunch(0, "k", findings=(rule, local)))
    shown = str(kernel._detail(0, "kernel", entry, None))
    assert shown.count("Do something.") == 2
    assert shown.count("Some title (Nsight Compute's rule): up to 60% of the time") == 1
    assert shown.count("Of a part: estimated gain 60% of the part it looks at") == 1
    assert kernel._index((entry,), [0], [0]).rows[0][10].text == "Some title (Nsight Compute's rule)"
