"""The pages of imported reports: what they say agrees with the reports' own numbers, and what is unknown stays so."""

import json

import numpy as np
import pytest
from dashboard_samples import profile, store

from autotune.dashboard import build, counters
from autotune.dashboard.collect import collect
from autotune.dashboard.hardware_use import instruction_mix, opcode, pipes, roofline, traffic
from autotune.dashboard.kernel_groups import kernel_groups
from autotune.dashboard.metric_lists import metric_lists
from autotune.dashboard.page_data import profiled_launches
from autotune.dashboard.page_elements import Bars, MemoryChart, MetricList, Table, significant
from autotune.dashboard.pages import kernel, overview, pages, reports, roofline_reports, run
from autotune.importers import kernel_tuner, tuning_results
from tuning_db import open_db
from tuning_db.profile_records import (
    Columns,
    KernelLaunch,
    Metrics,
    Profile,
    Provenance,
    ReportTable,
    RowKind,
    SourceLine,
)

ORIGIN = Provenance("a.ncu-rep", "a" * 64, 1, "Nsight Compute", "ncu-rep")


def launch(place=0, name="k", metrics=None, **fields) -> KernelLaunch:
    found = metrics or {}
    columns = Columns(tuple(found), tuple("%" for _ in found))
    return KernelLaunch(place, name, metrics=Metrics(columns, np.array(list(found.values()), float)), **fields)


@pytest.fixture
def data(tmp_path):
    """Two reports of one program, the second of summaries without counters."""
    path = tmp_path / "reports.db"
    summary = [
        KernelLaunch(0, "_product_kernel_1", RowKind.SUMMARY, duration_ns=4e6, count=4),
        KernelLaunch(1, "only here", RowKind.SUMMARY, count=7),
    ]
    store(path, [profile(3, 10), Profile(Provenance("sums.csv", "b" * 64, 1, "Nsight Systems", "csv"), tuple(summary))])
    return collect(path)


def test_reports_come_first_where_nothing_was_tuned(data):
    assert pages(data)[0].id == "reports"


def test_kernels_are_counted_and_summed_by_name(data):
    groups = {group.name: group for group in kernel_groups(data, [0, 1])}
    recorded = data.database.profiles[0].launches
    assert groups["_product_kernel_1"].count == 5
    assert groups["_product_kernel_1"].ns == pytest.approx(recorded[1].duration_ns + 4e6)
    assert groups["_product_kernel_1"].reports == ("report.ncu-rep", "sums.csv")
    assert groups["only here"].ns is None and groups["only here"].untimed == 7
    assert list(groups)[-1] == "only here"  # unknown is last, not zero


def test_the_front_page_has_every_kernel_with_its_full_name_and_share(data):
    page = reports.page(data)
    table = next(block for block in page.blocks if isinstance(block, Table) and block.caption == "Kernels by time")
    shares = [row[3].value for row in table.rows if row[3].value is not None]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    unknown = next(row for row in table.rows if row[0].text == "only here")
    assert [cell.text for cell in unknown[1:6]] == ["7", "–", "–", "–", reports.UNKNOWN]
    assert {detail.id for detail in page.details} == {"report-0", "report-1"}


def test_without_counters_nothing_is_said_to_bound_a_kernel():
    assert counters.bound(launch()) is None
    assert traffic(launch()).known is False
    assert roofline(launch()) is None and pipes(launch()) == []


@pytest.mark.parametrize(
    ("sm", "dram", "expected"),
    [(91.2, 20, "compute (SM) 91%"), (20, 94, "DRAM 94%"), (11, 12, "latency (busiest: DRAM 12%)")],
)
def test_what_bounds_a_kernel_is_its_busiest_unit(sm, dram, expected):
    names = {label: names[0] for label, names in counters.SPEED_OF_LIGHT.items()}
    assert counters.bound(launch(metrics={names["compute (SM)"]: sm, names["DRAM"]: dram})) == expected


def test_launches_that_are_alike_are_shown_once_by_the_longest():
    many = tuple(launch(n, "k", {"m": n}, duration_ns=float(n), grid=(1 + n % 2, 1, 1)) for n in range(6))
    found = profiled_launches(Profile(ORIGIN, many))
    assert [(entry.launch.place, len(entry.alike)) for entry in found] == [(4, 3), (5, 3)]


def test_of_many_different_kernels_those_with_most_time_are_shown(data):
    many = tuple(launch(n, f"k{n}", {"m": n}, duration_ns=float(n)) for n in range(kernel.MOST_DETAILS + 5))
    places = kernel.detailed(profiled_launches(Profile(ORIGIN, many)))
    assert places == list(range(5, kernel.MOST_DETAILS + 5))


def test_every_metric_of_a_launch_is_in_its_list(data):
    page = next(page for page in pages(data) if page.id == "kernel")
    entry, detail = data.profiled[1], page.details[1]
    listed = next(block for block in detail.blocks if isinstance(block, MetricList))
    values = iter(listed.values)
    shown = {}
    for line in page.packs[listed.pack].decode().split("\n"):
        name, _, *shared = line.split("\t")
        shown[name] = shared[0] if shared else next(values)
    assert next(values, None) is None
    assert shown.keys() == set(entry.launch.metrics)
    for name, text in shown.items():
        assert float(text.replace(",", "")) == pytest.approx(entry.launch.metrics.number(name), rel=1e-4)


def test_metrics_that_are_missing_or_words_keep_their_place():
    one = launch(metrics={"a": 1, "b": float("nan"), "c": 3})
    two = KernelLaunch(1, "k", metrics=Metrics(one.metrics.columns, np.array([1.0, 2.5, 4.0]), {"word": "x\ty"}))
    lists = metric_lists([one, two])
    assert lists.pack.decode().split("\n") == ["a\t%\t1", "b\t%", "c\t%", "word\t"]
    assert lists.values == (("", "3", ""), ("2.5", "4", "x y"))


def test_the_memory_chart_has_the_bytes_of_the_report(data):
    entry = data.profiled[0]
    page = next(page for page in pages(data) if page.id == "kernel")
    chart = next(block for block in page.details[0].blocks if isinstance(block, MemoryChart))
    number = entry.launch.metrics.number
    assert chart.reads == (None, number("l1tex__m_xbar2l1tex_read_bytes.sum"), number("dram__bytes_read.sum"))
    assert chart.writes == (None, None, None)
    assert chart.levels[2].hits == pytest.approx(number("lts__t_sector_hit_rate.pct") / 100)
    text = {cell.text for row in chart.table().rows for cell in row}
    assert "–" in text and "0" not in text


def test_the_roofline_is_operations_over_bytes(data):
    here = data.profiled[0].launch.metrics.number
    found = roofline(data.profiled[0].launch)
    clock = here("smsp__cycles_elapsed.avg.per_second")
    rate = 2 * here("smsp__sass_thread_inst_executed_op_ffma_pred_on.sum.per_cycle_elapsed") * clock
    assert [(roof.name, roof.rate) for roof in found.roofs] == [("FP32", pytest.approx(rate))]
    assert found.bytes_s == here("dram__bytes_read.sum.per_second") and found.bytes_peak is None


def test_every_profiled_kernel_is_under_its_roofs(data):
    blocks, sentence = roofline_reports.charts(data)
    chart, table = blocks[1:]
    dots = [point for series in chart.series if series.kind == "dots" for point in series.points]
    assert len(dots) == len(table.rows) == 3
    for (x, y, _), row, entry in zip(dots, table.rows, data.profiled, strict=True):
        found = roofline(entry.launch)
        assert (x, y) == (found.roofs[0].rate / found.bytes_s, found.roofs[0].rate / 1e9)
        assert row[4].value == pytest.approx(found.roofs[0].rate / found.roofs[0].peak)
        assert row[6].text == "–"  # the report has no peak of DRAM
    assert sentence.startswith("Of 3 profiled kernels no report has the peaks")


def test_instructions_are_weighted_by_how_often_they_ran():
    lines = (
        SourceLine(0, "@!P0  LDG.E.128 R4, [R2] ;", executed=30),
        SourceLine(16, "FFMA R1, R2, R3, R4 ;", executed=10),
    )
    assert instruction_mix(launch(lines=lines)) == ({"LDG": 30, "FFMA": 10}, True)
    uncounted = tuple(SourceLine(line.address, line.sass) for line in lines)
    assert instruction_mix(launch(lines=uncounted)) == ({"LDG": 1, "FFMA": 1}, False)
    assert opcode("") == "?" and opcode("@P0 ;") == "?" and opcode("EXIT ;") == "EXIT"


def test_occupancy_is_told_by_cause():
    found = launch(
        metrics={
            counters.OCCUPANCY["theoretical"][0]: 25, counters.OCCUPANCY["achieved"][0]: 10,
            "launch__occupancy_limit_registers": 4, "launch__occupancy_limit_shared_mem": 2,
            "launch__waves_per_multiprocessor": 0.5,
        },
    )  # fmt: skip
    profiled = profiled_launches(Profile(ORIGIN, (found,)))
    detail = kernel._detail(0, "kernel", profiled[0], None)
    chart = next(block for block in detail.blocks if isinstance(block, Bars) and block.title == "Occupancy by cause")
    assert dict(chart.rows) == {
        "taken by shared memory": (75,), "possible": (25,), "not reached: a grid of 0.50 waves": (15,),
        "achieved": (10,),
    }  # fmt: skip


def test_machine_code_is_taken_from_the_launch_that_has_it():
    """Importers read the machine code of a few launches only; the longest of those alike may have none."""
    lines = (SourceLine(0, "LDG R1 ;", stalls={"wait": 3}),)
    many = (launch(0, "k", {"m": 1}, duration_ns=5.0, lines=lines), launch(1, "k", {"m": 2}, duration_ns=9.0))
    (entry,) = profiled_launches(Profile(ORIGIN, many))
    assert entry.launch.place == 1 and entry.sampled.place == 0


@pytest.mark.slow  # diagnosing and drawing them takes some 5 s
def test_a_report_of_600_kernels_is_a_small_page(tmp_path):
    """Every kernel is somewhere; those with most time are shown in detail."""
    many = profile(600, 4)
    store(tmp_path / "many.db", [many])
    html = build.html(tmp_path / "many.db")
    assert len(html.encode()) < 1_500_000
    page = next(page for page in pages(collect(tmp_path / "many.db")) if page.id == "kernel")
    everything = next(detail for detail in page.details if detail.id == "kernel-all").blocks[0]
    assert len(everything.rows) == 600 and sum(cell.href is not None for row in everything.rows for cell in row) == 80


def reported(page, caption="Imported reports"):
    table = next(block for block in page.blocks if isinstance(block, Table) and block.caption == caption)
    return [{column.name: cell for column, cell in zip(table.columns, row, strict=True)} for row in table.rows]


def test_reports_without_kernels_are_on_the_front_page(tmp_path):
    ranges = ReportTable("nvtx_sum", "Ranges", ("Range",), ("",), ((":step",),))
    trial = KernelLaunch(0, "k", RowKind.TRIAL, duration_ns=1.0, config={"block": 1})
    store(
        tmp_path / "a.db",
        [
            Profile(Provenance("ranges.csv", "a" * 64, 1, "Nsight Systems", "csv"), (), tables=(ranges,)),
            Profile(Provenance("helion.csv", "b" * 64, 1, "Helion", "log"), (trial,)),
        ],
    )
    page = reports.page(collect(tmp_path / "a.db"))
    assert page.answer.startswith("2 reports without kernels")
    rows = reported(page)
    assert [(row["report"].text, row["report"].href) for row in rows] == [
        ("ranges.csv", "#tables-0"), ("helion.csv", "#tables-1"),
    ]  # fmt: skip
    assert {row["kernels"].text for row in rows} == {"–"}


def test_copies_and_fills_are_beside_the_kernels_time(tmp_path):
    rows = (
        KernelLaunch(0, "k", RowKind.SUMMARY, duration_ns=1e3, count=2),
        KernelLaunch(1, "[CUDA memcpy HtoD]", RowKind.COPY, duration_ns=9e3, count=3, direction="HtoD"),
        KernelLaunch(2, "[CUDA memset]", RowKind.FILL, duration_ns=1e3, count=1),
    )
    store(tmp_path / "a.db", [Profile(Provenance("a.csv", "a" * 64, 1, "Nsight Systems", "csv"), rows)])
    (row,) = reported(reports.page(collect(tmp_path / "a.db")))
    assert (row["kernel time"].value, row["copies and fills"].value) == (1e3, 1e4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-5, "0.00005"), (1.5e-5, "0.000015"), (1.25e-6, "0.00000125"), (0.25, "0.25"), (12_345.6, "12,350"), (2, "2")],
)
def test_small_numbers_are_not_shown_as_zero(value, text):
    assert significant(value) == text


def test_times_that_an_imported_run_does_not_tell_are_unknown(tmp_path):
    cache = {
        "device_name": "Some GPU", "kernel_name": "mul", "problem_size": 1, "tune_params_keys": ["block"],
        "tune_params": {"block": [32, 64]}, "cache": {"32": {"block": 32, "time": 2.0}, "64": {"block": 64, "time": 1}},
    }  # fmt: skip
    (tmp_path / "cache.json").write_text(json.dumps(cache))
    results = kernel_tuner.read(tmp_path / "cache.json")
    with open_db(tmp_path / "a.db") as db:
        tuning_results.store(results, db)
    data = collect(tmp_path / "a.db")
    page = run.page(data)
    (row,) = reported(page, "Every run")
    assert (row["wall"].text, row["compiling"].text, row["best"].value) == ("–", "–", 1000)
    text = page.details[0].blocks[0].text
    assert "when each ended is unknown. How long compiling took is unknown." in text
    assert "Best so far by wall time" not in [getattr(block, "title", "") for block in page.details[0].blocks]
    assert overview.page(data).answer.startswith("1 run in Run")
