"""What `autotune profile` kept on an H200 before and after `autotune tune`: Compare says what NVIDIA's library reads.

h200_profile.db.xz is the database as it was left there: three problems profiled with --untuned, tuned for eight seconds
each, profiled again. h200_profile.json holds what ncu_report reads of the two reports, written down apart from ours.
"""

import json
from pathlib import Path

import pytest
from page_blocks import tables

from autotune.dashboard.collect import collect
from autotune.dashboard.page_elements import Words
from autotune.dashboard.pages import compare, kernel, reports, source

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"
READ = json.loads((FIXTURES / "h200_profile.json").read_text())
STEP = "before, default → after, winner"


@pytest.fixture(scope="module")
def data(h200_db):
    return collect(h200_db)


@pytest.fixture(scope="module")
def page(data):
    return compare.page(data)


def test_all_three_problems_got_better(page):
    rows = {row[0].text: row for row in page.blocks[0].rows}
    assert {name: (row[3].text, row[4].text) for name, row in rows.items()} == {
        "head 49152×576 Q8_0": ("0.740", "better"), "attention 9/3×64 @5120": ("0.742", "better"),
        "matvec 1024×2048 Q4_0": ("0.832", "better"),
    }  # fmt: skip
    assert rows["attention 9/3×64 @5120"][5].text == "heads 3 → 1"
    assert page.answer.startswith("Of 3 problems profiled in several versions, from the first to the last 3 got better")


def test_counters_are_those_that_nvidias_library_reads(page):
    """Of every kernel before and after, each metric of the file that the page shows."""
    checked = 0
    for detail in page.details:
        problem = next(
            row for row in READ if row["problem"].partition(":")[0] == detail.label.split()[0]
        )["problem"]  # fmt: skip
        sides = {
            side: {row["kernel"]: row["metrics"] for row in READ
                   if (row["report"], row["problem"], row["role"]) == (f"{side}.ncu-rep", problem, role)}
            for side, role in (("before", "default"), ("after", "winner"))
        }  # fmt: skip
        for name, before in sides["before"].items():
            shown = {row[4].text: row for row in tables(detail)[f"{name}, {STEP}: counters"].rows}
            for metric, value in before.items():
                if metric in shown:
                    assert shown[metric][1].value == pytest.approx(value, rel=1e-9)
                    assert shown[metric][2].value == pytest.approx(sides["after"][name][metric], rel=1e-9)
                    checked += 1
    assert checked == 4 * 9


def test_what_is_said_of_attention_is_true(page):
    """One head a program instead of three: three times the blocks, fewer registers, keys read from L2 three times."""
    (detail,) = [one for one in page.details if one.label.startswith("attention")]
    call, attend, combine, *_ = [block.text for block in detail.blocks if isinstance(block, Words)]
    assert "0.742 times the time" in call and "Configuration: heads 3 → 1." in call
    assert attend.startswith(
        "attend_short (6.43 µs → 5.6 µs under the profiler): Launched with grid 3×128×1 → 9×128×1."
    )
    assert "L2 hits 15.8% → 51.7%" in attend and "L2 to L1 3.06 MB → 8.97 MB" in attend
    assert combine.startswith("combine (4.32 µs → 4.42 µs under the profiler):") and "Launched" not in combine


def test_launches_are_counted_once(data):
    """The twelve of the reports; the nine calls that were timed beside them are no launches of kernels."""
    assert kernel.page(data).answer.startswith("12 launches of 4 kernels were profiled.")
    total = sum(row["metrics"]["gpu__time_duration.sum"] for row in READ)
    assert f"12 launches of 4 kernels, {total / 1e3:.1f} µs of kernel time" in reports.page(data).answer


def test_the_source_page_names_the_line_where_most_time_goes(data):
    """A line of the longest kernel, not one of a short kernel with 19 samples of which 8 are at one line."""
    page = source.page(data)
    assert page.answer.startswith("In rows_product (default) 27% of the samples are at cuda/instructions.py:26")
    (table,) = page.blocks
    samples = {(row[6].text, row[0].text): row[2].value for row in table.rows}
    assert samples == {(row["report"], f"{row['kernel']} ({row['role']})"): row["samples"] for row in READ}
