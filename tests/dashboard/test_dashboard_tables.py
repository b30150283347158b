"""The page "Tables": sums of kernels, copies, ranges and trials, each named for what it is."""

import pytest

from autotune.dashboard.collect import collect
from autotune.dashboard.page_elements import Table
from autotune.dashboard.pages import tables
from tuning_db import open_db, profiles
from tuning_db.profile_records import KernelLaunch, Metrics, Profile, Provenance, ReportTable, RowKind

LAUNCHES = (
    KernelLaunch(0, "void mul<4>(float *)", RowKind.SUMMARY, duration_ns=9000.0, count=3),
    KernelLaunch(1, "add", RowKind.SUMMARY, duration_ns=1000.0),
    KernelLaunch(2, "[CUDA memcpy HtoD]", RowKind.COPY, start_ns=5, duration_ns=400.0, bytes=2_000_000),
    KernelLaunch(3, "[CUDA memcpy HtoD]", RowKind.COPY, start_ns=900, duration_ns=600.0, bytes=3_000_000),
    KernelLaunch(4, "[CUDA memcpy DtoH]", RowKind.COPY, duration_ns=600.0, count=2),
    KernelLaunch(5, "softmax", RowKind.TRIAL, config={"warps": 8}, metrics=Metrics(texts={"status": "error"})),
    KernelLaunch(6, "softmax", RowKind.TRIAL, duration_ns=500.0, config={"warps": 4}),
)
REPORT = ReportTable("nvtx_sum", "Time of NVTX ranges", ("Total Time", "Range"), ("ns", ""), ((800_000.0, ":step"),))


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "tuning.db"
    about = Provenance("a.csv", "ab" * 32, 3, "Nsight Systems", "nsys stats, nvtx_sum")
    with open_db(path) as db:
        profiles.store(db, Profile(about, LAUNCHES, tables=(REPORT,)))
        kernel = KernelLaunch(0, "k", duration_ns=5.0)
        profiles.store(db, Profile(Provenance("b.csv", "cd" * 32, 3, "Nsight Compute", "ncu"), (kernel,)))
    return tables.page(collect(path))


def rows(page, caption):
    table = next(b for d in page.details for b in d.blocks if isinstance(b, Table) and b.caption.startswith(caption))
    return [[cell.text for cell in row] for row in table.rows]


def test_files_with_tables_are_details(page):
    assert [detail.label for detail in page.details] == ["a.csv"] and page.answer.startswith("1 file has such tables")


def test_kernels_by_time(page):
    assert rows(page, "Kernels") == [
        ["void mul<4>(float *)", "3", "9.00", "3.00", "90.0%"], ["add", "1", "1.00", "1.00", "10.0%"],
    ]  # fmt: skip


def test_copies_of_one_direction_are_one_row_and_unknown_bytes_are_no_rate(page):
    assert rows(page, "Copies and fills") == [
        ["[CUDA memcpy HtoD]", "2", "1.00", "5", "5,000"], ["[CUDA memcpy DtoH]", "2", "0.60", "–", "–"],
    ]  # fmt: skip


def test_trials_and_reports(page):
    assert rows(page, "Configurations") == [
        ["warps=4", "softmax", "–", "0.50"], ["warps=8", "softmax", "error", "–"],
    ]  # fmt: skip
    assert rows(page, "Time of NVTX ranges (nvtx_sum)") == [["800.0", ":step"]]


def test_a_long_table_says_what_it_leaves_out(tmp_path, page):
    table = tables._report(ReportTable("cuda_api_trace", "Calls", ("Name",), ("",), (("cudaFree",),) * 1500))
    assert table.caption == "Calls (cuda_api_trace), the first 1,000 of 1,500 rows" and len(table.rows) == 1000
