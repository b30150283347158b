"""The page "Compare" of reports that Nsight Compute recorded on an H100: the same problem before and after a change."""

import csv
import io
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.dashboard.collect import collect
from autotune.dashboard.page_elements import Table, Words
from autotune.dashboard.pages import compare
from autotune.importers import ncu_rep
from autotune.importers.files import unpacked
from autotune.profiling import match_kernels
from autotune.profiling.kernel_key import KnownKernel
from tuning_db import open_db, profiles
from tuning_db.profile_records import Profile

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"
TIME = "gpu__time_duration.sum"


@pytest.fixture(scope="module")
def recorded() -> Profile:
    """What `autotune profile` keeps of the report: launches of a default and of a winner, each with its problem."""
    pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
    with unpacked(FIXTURES / "small.ncu-rep.xz") as path:
        report = ncu_rep.read(path)
    kernels = [KnownKernel.parse(row) for row in json.loads((FIXTURES / "small.kernels.json").read_text())]
    return match_kernels.with_recorded(report, kernels)


@pytest.fixture(scope="module")
def page(recorded, tmp_path_factory):
    """The default's launches are what the problem ran with before it was tuned, the winner's what it ran with after."""
    path = tmp_path_factory.mktemp("compare") / "t.db"
    with open_db(path) as db:
        for number, role in enumerate(("default", "winner")):
            mine = [replace(launch, role="winner") for launch in recorded.launches if launch.role == role]
            about = replace(
                recorded.provenance, file=f"{('before', 'after')[number]} the change", sha256=f"{number:064x}",
                recorded_at=f"2026-11-26T2{number}:00:00+00:00", found=len(mine), expected=len(mine),
            )  # fmt: skip
            launches = tuple(replace(launch, place=place) for place, launch in enumerate(mine))
            profiles.store(db, replace(recorded, provenance=about, launches=launches))
    return compare.page(collect(path))


def blocks(page):
    """Words and tables of the product's kernel, which has another grid after the change."""
    detail = next(one for one in page.details if one.id == "compare-kernel-0")
    return (
        [block.text for block in detail.blocks if isinstance(block, Words)],
        {block.caption: block for block in detail.blocks if isinstance(block, Table)},
    )


def test_a_problem_profiled_before_and_after_a_change(page, recorded):
    """Time, bound, occupancy and counters of both, as the report has them."""
    words, tables = blocks(page)
    assert words[0].startswith("rows_product, recognized by the same problem.")
    assert "Configuration: each 1 → 2, warps 4 → 16." in words[-1]
    assert "New findings: " in words[-1] and ": noise." in words[-1]
    before, after = tables["Version by version"].rows
    assert [row[1].text for row in (before, after)] == ["4.13 µs", "4.03 µs"] and after[3].text == "noise"
    assert [row[5].text for row in (before, after)] == [
        "latency (busiest: L1/TEX cache 14%)", "latency (busiest: L1/TEX cache 28%)",
    ]  # fmt: skip
    assert [row[8].text for row in (before, after)] == ["240×1×1", "30×1×1"]
    first, second = (launch for launch in recorded.launches if launch.kernel == "rows_product")
    counters = {row[4].text: row for row in tables["before the change → after the change: counters"].rows}
    for name in (TIME, "launch__registers_per_thread", "sm__warps_active.avg.pct_of_peak_sustained_active",
                 "lts__t_sector_hit_rate.pct", "launch__occupancy_limit_registers"):  # fmt: skip
        change = 100 * (second.metrics.number(name) / first.metrics.number(name) - 1)
        assert counters[name][3].value == pytest.approx(change)
    assert counters["launch__registers_per_thread"][1].text == "46 register/thread"


def test_source_lines_whose_share_changed(page, recorded):
    """Every share is that of the report's own samples, and no line is there that did not change."""
    rows = blocks(page)[1]["before the change → after the change: source lines"].rows
    assert len(rows) == 12 and all(row[3].value for row in rows)
    for side, launch in zip((1, 2), (x for x in recorded.launches if x.kernel == "rows_product"), strict=True):
        texts = {file: text.splitlines() for file, text in recorded.sources.items()}
        samples: dict[str, int] = {}
        for line in launch.lines:
            if line.file and line.line and line.line <= len(texts.get(line.file, ())):
                text = texts[line.file][line.line - 1].strip()
                samples[text] = samples.get(text, 0) + line.samples
        total = sum(line.samples for line in launch.lines if line.file and line.line)
        for row in rows:
            if row[side].value is not None:
                assert row[side].value == pytest.approx(100 * samples[row[0].text] / total)


@pytest.mark.parametrize(("factor", "word"), [(0.8, "better"), (1.25, "worse"), (1.01, "noise")])
def test_two_csv_files_of_one_program(autotune, tmp_path, factor, word):
    """A recorded raw page, and the same with other times: through the command line to the page."""
    text = lzma.decompress((FIXTURES / "small.raw.csv.xz").read_bytes()).decode()
    database = tmp_path / "t.db"
    for name, times in (("v1.csv", 1.0), ("v2.csv", factor)):
        path = tmp_path / name
        path.write_text(with_times(text, times))
        assert autotune("import", path, "--db", database).exit_code == 0
    page = compare.page(collect(database))
    index = next(block for block in page.blocks if isinstance(block, Table))
    assert {row[5].text for row in index.rows} == {word} and len(index.rows) > 2
    assert all(row[4].value == pytest.approx(factor, rel=0.01) for row in index.rows)


def with_times(text: str, factor: float) -> str:
    """The page with other times of its launches."""
    start = text.index('"ID"')
    rows = list(csv.reader(io.StringIO(text[start:])))
    at = rows[0].index(TIME)
    for row in rows[2:]:
        row[at] = f"{float(row[at].replace(',', '')) * factor:,.2f}"
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return text[:start] + out.getvalue()
