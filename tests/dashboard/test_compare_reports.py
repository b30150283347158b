"""Reports as versions of one program: kernels are recognized, times judged, and what changed is said."""

from dataclasses import replace

import numpy as np
import pytest
from dashboard_samples import busy_trace, profile, store

from autotune.dashboard.collect import collect
from autotune.dashboard.noise import SUPPOSED, launch_noise
from autotune.dashboard.page_elements import Table
from autotune.dashboard.pages import compare
from autotune.dashboard.report_versions import judged, noise_of, series, versions
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance, SourceLine

NS = "gpu__time_duration.sum"


def launch(place: int, name: str, ns: float, grid: int = 8, lines: tuple[SourceLine, ...] = ()) -> KernelLaunch:
    columns = Columns((NS, "launch__registers_per_thread"), ("ns", "register/thread"))
    metrics = Metrics(columns, np.array([ns, 32.0 + grid]))
    return KernelLaunch(place, name, grid=(grid, 1, 1), block=(128, 1, 1), metrics=metrics, lines=lines)


def report(name: str, *launches: KernelLaunch, sources=None, recorded=None) -> Profile:
    about = Provenance(
        name, (name.encode().hex() + "0" * 64)[:64], 1, "Nsight Compute", "ncu-rep", recorded_at=recorded
    )
    return Profile(about, tuple(replace(one, place=n) for n, one in enumerate(launches)), (), sources or {})


@pytest.fixture
def read(tmp_path):
    def stored(*reports: Profile):
        path = tmp_path / "v.db"
        path.unlink(missing_ok=True)
        store(path, reports)
        return collect(path)

    return stored


@pytest.mark.parametrize(
    ("first", "second", "how"),
    [
        ([launch(0, "k", 9)], [launch(0, "k", 5)], "the same name and sizes"),
        ([launch(0, "k", 9)], [launch(0, "k", 5, grid=4)], "the same name"),
        ([launch(0, "a::k<1>(int)", 9)], [launch(0, "a::k<2>(int)", 5)], "the same name but for its arguments"),
        ([launch(0, "gemm_v1", 9)], [launch(0, "gemm_v2", 5)], "the only kernel of each report"),
        ([launch(0, "a", 9), launch(0, "x", 1)], [launch(0, "b", 5)], None),  # nothing tells which is which
        ([launch(0, "k", 9), launch(0, "k", 8, grid=9)], [launch(0, "k", 5, grid=4)], None),
    ],
)  # fmt: skip
def test_kernels_are_recognized_by_the_surest_way(read, first, second, how):
    found = series(versions(read(report("v1", *first), report("v2", *second))))
    assert [one.how for one in found] == ([] if how is None else [how])


def test_versions_come_in_the_order_they_were_recorded(read):
    data = read(
        report("b", launch(0, "k", 1), recorded="2026-02-01"), report("a", launch(0, "k", 1), recorded="2026-01-01")
    )
    assert [version.name for version in versions(data)] == ["a", "b"]
    data = read(report("b", launch(0, "k", 1), recorded="2026-02-01"), report("a", launch(0, "k", 1)))
    assert [version.name for version in versions(data)] == ["b", "a"]


@pytest.mark.parametrize(("after", "word"), [(900.0, "better"), (1100.0, "worse"), (1040.0, "noise"), (970.0, "noise")])
def test_one_launch_each_is_judged_by_the_supposed_noise(read, after, word):
    found = versions(read(report("v1", launch(0, "k", 1000.0)), report("v2", launch(0, "k", after))))
    (one,) = series(found)
    noise = noise_of(found)
    assert noise.assumed and noise.band == SUPPOSED
    assert judged(*one.entries, noise).word == word


def test_many_launches_tell_the_noise_themselves(read):
    times = [1000.0 + n % 2 for n in range(40)]
    found = versions(read(
        report("v1", *(launch(0, "k", time) for time in times)),
        report("v2", *(launch(0, "k", 0.98 * time) for time in times)),
    ))  # fmt: skip
    (one,) = series(found)
    noise = noise_of(found)
    assert not noise.assumed and noise.band < 0.002
    assert judged(*one.entries, noise).word == "better"


def test_what_was_not_timed_is_not_judged(read):
    untimed = KernelLaunch(0, "k", metrics=Metrics(Columns(("x",), ("",)), np.array([1.0])))
    data = read(report("v1", untimed), report("v2", launch(0, "k", 5)))
    found = versions(data)
    assert judged(*series(found)[0].entries, noise_of(found)) is None
    assert "1 could not be judged" in compare.page(data).answer


def test_a_noise_of_nothing_is_supposed():
    assert launch_noise([]).assumed and launch_noise([[0.0, 0.0]]).count == 0


def test_nine_versions_are_told_one_by_one(read):
    made = [profile(2, 12, seed=n, name=f"v{n}.ncu-rep") for n in range(1, 10)]
    imported = [replace(one, provenance=replace(one.provenance, fingerprint=None)) for one in made]
    page = compare.page(read(*imported))
    detail = next(one for one in page.details if one.id == "compare-kernel-0")
    table = next(block for block in detail.blocks if isinstance(block, Table) and block.caption == "Version by version")
    assert [row[0].text for row in table.rows] == [f"v{n}.ncu-rep" for n in range(1, 10)]
    words = {row[3].text for row in table.rows[1:]}
    assert words <= {"better", "worse", "noise"} and len(words) > 1
    steps = [
        block.caption for block in detail.blocks if isinstance(block, Table) and block.caption.endswith("counters")
    ]
    assert steps[0] == "v1.ncu-rep → v2.ncu-rep: counters" and steps[-1] == "v1.ncu-rep → v9.ncu-rep: counters"


def test_lines_that_changed_are_recognized_by_their_text(read):
    source = {"k.py": "a = load(x)\nb = a * a\nstore(b)\n"}
    moved = {"k.py": "# new\na = load(x)\nstore(a * a)\n"}

    def lines(*samples):
        return tuple(
            SourceLine(16 * n, "LDG", None, "k.py", line, 1, {"wait": count}) for n, (line, count) in enumerate(samples)
        )

    data = read(
        report("v1", launch(0, "k", 9, lines=lines((1, 75), (2, 25))), sources=source),
        report("v2", launch(0, "k", 5, lines=lines((2, 50), (3, 50))), sources=moved),
    )
    detail = next(one for one in compare.page(data).details if one.id == "compare-kernel-0")
    table = next(
        block for block in detail.blocks if isinstance(block, Table) and block.caption.endswith("source lines")
    )
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["store(a * a)", "–", "50.0", "50.0", "second"],
        ["a = load(x)", "75.0", "50.0", "-25.0", "both"],
        ["b = a * a", "25.0", "–", "-25.0", "first"],
    ]


def test_programs_are_compared_as_a_whole(read):
    data = read(busy_trace(300, 50, "before.sqlite", 0), busy_trace(300, 50, "after.sqlite", 1))
    page = compare.page(data)
    (detail,) = [one for one in page.details if one.id == "compare-program"]
    whole, kernels = (block for block in detail.blocks if isinstance(block, Table))
    for row, trace in zip(whole.rows, data.database.traces, strict=True):
        assert row[1].value == trace.duration_ns[trace.kind == 0].sum()
    differences = [abs(row[3].value) for row in kernels.rows]
    assert differences == sorted(differences, reverse=True)
    assert "From before.sqlite to after.sqlite" in page.answer


def test_one_report_is_nothing_to_compare(read):
    page = compare.page(read(report("v1", launch(0, "k", 9))))
    assert page.details == () and "Nothing was tuned twice" in page.answer
