"""The page "Compare" of what `autotune profile` keeps: problems before and after a change, from an H100's report."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_blocks import tables

from autotune.dashboard.collect import collect
from autotune.dashboard.own_profiles import counted_too
from autotune.dashboard.page_elements import Table, Words
from autotune.dashboard.pages import compare, compare_problems
from autotune.dashboard.pages import reports as reports_page
from autotune.dashboard.problem_versions import problem_series, reports
from autotune.importers import ncu_rep
from autotune.importers.files import unpacked
from autotune.profiling import match_kernels, measured_times
from autotune.profiling.kernel_key import KnownKernel
from kernel_templates.device import Device
from tuning_db import open_db, profiles
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"
H100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30)
ROWS = json.loads((FIXTURES / "small.kernels.json").read_text())
NORM = ROWS[0]["problem"]
CONFIGS = {row["role"]: row["config"] for row in ROWS}


@pytest.fixture(scope="module")
def recorded() -> Profile:
    pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
    with unpacked(FIXTURES / "small.ncu-rep.xz") as path:
        report = ncu_rep.read(path)
    return match_kernels.with_recorded(report, [KnownKernel.parse(row) for row in ROWS])


def timed(title, when, **medians):
    """The times of a report; medians: ns by role."""
    rows = [
        {"problem": NORM, "config": CONFIGS[role], "role": role, "q10_ns": 0.99 * ns, "median_ns": ns,
         "q90_ns": 1.01 * ns, "samples": 30, "bytes_needed": 360_000}
        for role, ns in medians.items()
    ]  # fmt: skip
    return measured_times.profile_of(rows, title, f"2026-11-30T2{when}:00:00+00:00", H100)


def counted(recorded, title, when, *roles):
    launches = [launch for launch in recorded.launches if launch.role in roles]
    about = replace(
        recorded.provenance, file=f"{title}.ncu-rep", sha256=f"{when:064x}", fingerprint=H100.fingerprint,
        recorded_at=f"2026-11-30T2{when}:00:00+00:00", found=len(launches), expected=len(launches),
    )  # fmt: skip
    return replace(recorded, provenance=about, launches=tuple(replace(x, place=n) for n, x in enumerate(launches)))


def read(folder, *kept):
    path = folder / "t.db"
    with open_db(path) as db:
        for profile in kept:
            profiles.store(db, profile)
    return collect(path)


@pytest.fixture(scope="module")
def data(recorded, tmp_path_factory):
    """Untuned, then tuned; and something else, imported between the two."""
    other = KernelLaunch(0, "gemm", metrics=Metrics(Columns(("gpu__time_duration.sum",), ("ns",)), np.array([5.0])))
    return read(
        tmp_path_factory.mktemp("problems"),
        timed("before", 0, default=2000.0), counted(recorded, "before", 0, "default"),
        Profile(Provenance("gemm.csv", "f" * 64, 1, "Nsight Compute", "raw", recorded_at="2026-11-30T20:30"), (other,)),
        timed("after", 1, default=2010.0, winner=1500.0), counted(recorded, "after", 1, "default", "winner"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(data):
    return compare.page(data)


def test_what_a_problem_ran_with_is_compared(page):
    assert page.answer == (
        "Of 1 problem profiled in several versions, from the first to the last 1 got better, 0 worse, and 0 differ by "
        "no more than noise. Most changed norm_qkv_rope 576 Q4_1: 2 µs → 1.5 µs (0.750 times)."
    )
    index = page.blocks[0]
    assert index.caption == "Problems before and after"
    ((name, first, last, ratio, verdict, settings, *ends),) = index.rows
    assert (name.href, name.tip) == ("#compare-problem-0", NORM)
    assert (first.text, last.text, ratio.text, verdict.text) == ("2 µs", "1.5 µs", "0.750", "better")
    assert settings.text == "each 1 → 2, warps 4 → 16"
    assert [cell.text for cell in ends] == ["before, default", "after, winner"]


def test_every_version_has_a_row(page):
    (detail,) = page.details
    rows = tables(detail)["Version by version"].rows
    assert [row[0].text for row in rows] == ["before, default", "after, default", "after, winner"]
    assert [row[5].text for row in rows] == ["–", "noise", "better"]
    assert [row[8].text for row in rows] == ["yes", "no", "yes"]
    assert {row[7].text for row in rows} == {"rows_product, finish"}
    assert rows[2][6].value == pytest.approx(360_000 / 1500e-9)  # bytes a second


def test_what_changed_within_the_kernels_is_the_reports_own(page, recorded):
    (detail,) = page.details
    found = tables(detail)
    step = "before, default → after, winner"
    kernels = found[f"{step}: kernels"].rows
    assert [row[0].text for row in kernels] == ["rows_product", "finish"]
    assert [row[7].text for row in kernels] == ["240×1×1", "15×1×1"] and kernels[0][8].text == "30×1×1"
    both = [launch for launch in recorded.launches if launch.kernel == "rows_product"]
    rows = {row[4].text: row for row in found[f"rows_product, {step}: counters"].rows}
    for name in ("gpu__time_duration.sum", "launch__registers_per_thread", "lts__t_sector_hit_rate.pct",
                 "dram__bytes_read.sum", "inst_executed"):  # fmt: skip
        assert [cell.value for cell in rows[name][1:3]] == [launch.metrics.number(name) for launch in both]
    words = [block.text for block in detail.blocks if isinstance(block, Words)]
    assert words[0].startswith(f"{step}: 0.750 times the time (0.7")
    assert "Configuration: each 1 → 2, warps 4 → 16." in words[0]
    said = next(text for text in words if text.startswith("rows_product (4.13 µs → 4.03 µs under the profiler): "))
    assert "Launched with grid 240×1×1 → 30×1×1, block 128×1×1 → 512×1×1." in said and "Configuration" not in said
    assert "Changed most: " in said


def test_the_counters_that_changed_most_are_named(recorded):
    first, second = (launch for launch in recorded.launches if launch.kernel == "rows_product")
    said = compare_problems.compare_launches.most_changed(first, second)
    ratios = {
        label: abs(math.log(two.value / one.value))
        for label, names in compare_problems.compare_launches.COUNTERS.items()
        for one in [compare_problems.counters.one(first, names)]
        for two in [compare_problems.counters.one(second, names)]
        if one and two and one.value > 0 and two.value > 0 and label not in compare_problems.compare_launches.QUIET
    }
    largest = sorted(ratios, key=lambda label: -ratios[label])[:4]
    assert len(said) == 4 and all(any(text.startswith(f"{label} ") for text in said) for label in largest)


def test_neither_is_taken_for_a_program(page):
    """Default and winner in one report would look like a program that got slower."""
    assert not any(detail.id.startswith(("compare-program", "compare-kernel")) for detail in page.details)
    assert "whole program" not in page.answer


def test_one_report_is_compared_within(recorded, tmp_path):
    data = read(tmp_path, timed("only", 0, default=2000.0, winner=2020.0))
    page = compare.page(data)
    assert "0 got better, 0 worse, and 1 differ" in page.answer
    words = [block.text for block in page.details[0].blocks if isinstance(block, Words)]
    assert words[0].endswith("One of them has no counters, so what changed within its kernels is unknown.")
    assert compare.page(read(tmp_path / "..", timed("only", 0, default=2000.0))).details == ()


def test_versions_that_follow_one_another(recorded, tmp_path):
    """Of v1, v2, v3 every step, and the whole way; reports of one name are told apart."""
    kept = [timed("v", when, default=ns) for when, ns in ((2, 900.0), (0, 2000.0), (1, 1000.0))]
    (one,) = problem_series(reports(read(tmp_path, *kept)))
    assert [version.name for version in one.versions] == ["v, default", "v (2), default", "v (3), default"]
    assert [version.time.median_ns for version in one.versions] == [2000.0, 1000.0, 900.0]
    pairs = [(first.time.median_ns, second.time.median_ns) for first, second in one.steps]
    assert pairs == [(2000.0, 1000.0), (1000.0, 900.0), (2000.0, 900.0)]


def test_a_database_to_compare_with_comes_first(recorded, tmp_path):
    for name, ns in (("old", 1000.0), ("new", 2000.0)):
        (tmp_path / name).mkdir()
        read(
            tmp_path / name, timed("profile of norm", 0, default=ns), counted(recorded, "profile of norm", 0, "default")
        )
    data = collect(tmp_path / "new" / "t.db", tmp_path / "old" / "t.db")
    page = compare.page(data)
    assert "0 got better, 1 worse" in page.answer
    kernels = tables(page.details[0])["profile of norm, default → profile of norm (2), default: kernels"].rows
    assert all(row[4].value == 0 for row in kernels)


def test_kernels_that_took_anothers_place(recorded, data):
    """What has no counterpart of its name is beside what took its place; the rest beside nothing."""
    one = [entry for entry in data.profiled if entry.profile.provenance.file == "before.ncu-rep"]
    renamed = [replace(entry, launch=replace(entry.launch, kernel=name)) for entry, name in zip(one, "ab", strict=True)]
    names = [
        tuple(entry.launch.kernel if entry else None for entry in pair)
        for pair in compare_problems.matched(one, [renamed[0], one[1], renamed[1]])
    ]
    assert names == [("rows_product", "a"), ("finish", "finish"), (None, "b")]
    assert compare_problems.matched(one, [one[1]]) == [(one[0], None), (one[1], one[1])]


def test_times_that_a_version_before_kept_are_read(recorded, tmp_path):
    """Those have no number of samples, and their counters have a later time."""
    old = timed("2026-11-26T10:00:00", 0, default=2000.0)
    columns = Columns(measured_times.COLUMNS.names[:3], measured_times.COLUMNS.units[:3])
    launches = tuple(replace(x, metrics=Metrics(columns, x.metrics.numbers[:3])) for x in old.launches)
    found = reports(read(tmp_path, replace(old, launches=launches), counted(recorded, "profile of x", 1, "default")))
    (report,) = found
    assert report.name == "2026-11-26T10:00:00" and len(report.entries) == 2
    assert measured_times.measurement(report.timed[0]).samples == 1


def test_calls_are_no_kernels_beside_those_they_launched(data, recorded):
    """The front page's kernel time is that of the counters' launches, and of what was imported besides."""
    found = [block for block in reports_page.page(data).blocks if isinstance(block, Table)]
    kernels = {row[0].text: row for row in found[1].rows}
    assert set(kernels) == {"rows_product", "finish", "gemm"}
    for name in ("rows_product", "finish"):  # the default's launch is in both reports, the winner's in one
        default, winner = (launch.duration_ns for launch in recorded.launches if launch.kernel == name)
        assert kernels[name][2].value == 2 * default + winner
    assert len(counted_too(data.database.profiles)) == 2


def test_calls_without_counters_are_on_the_front_page(tmp_path):
    data = read(tmp_path, timed("only", 0, default=2000.0))
    assert not counted_too(data.database.profiles) and "norm_qkv_rope" in reports_page.page(data).answer
