"""Nsight Compute's CSV: units, numbers as it prints them, and files that stop in the middle."""

import codecs
import csv
import io
import time

import generators as make
import pytest
from importing import import_file

from autotune import UserError
from autotune.importers import ncu_csv, ncu_labels, units
from tuning_db import profiles
from tuning_db.profile_records import RowKind


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("nsecond", ("ns", 1)), ("us", ("ns", 1e3)), ("msecond", ("ns", 1e6)), ("second", ("ns", 1e9)),
        ("byte", ("byte", 1)), ("Kbyte", ("byte", 1e3)), ("Mbyte", ("byte", 1e6)), ("Tbyte/s", ("byte/s", 1e12)),
        ("Gbyte/second", ("byte/s", 1e9)), ("byte/ns", ("byte/s", 1e9)), ("Ghz", ("hz", 1e9)), ("hz", ("hz", 1)),
        ("cycle/nsecond", ("hz", 1e9)), ("Kbyte/block", ("byte/block", 1e3)), ("%", ("%", 1)), ("", ("", 1)),
        ("inst/cycle", ("inst/cycle", 1)), ("register/thread", ("register/thread", 1)), ("Minst", ("inst", 1e6)),
        ("%/Kbyte", ("%/byte", 1e3)), ("\u00b5s", ("ns", 1e3)), ("\u03bcs", ("ns", 1e3)),
    ],
)  # fmt: skip
def test_units_come_in_their_base(printed, expected):
    name, factor = units.base(printed)
    assert name == expected[0] and factor == pytest.approx(expected[1])


@pytest.mark.parametrize(
    ("printed", "value"), [("1,234,567.5", 1234567.5), ("-3", -3.0), ("n/a", None), ("inf", None), ("nan", None)]
)
def test_numbers_as_printed(printed, value):
    assert units.number(printed) == value


def table(*rows):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()


RAW = table(
    ["ID", "Process ID", "Kernel Name", "Stream", "Block Size", "Grid Size", "gpu__time_duration.sum", "launch__kind"],
    ["", "", "", "", "", "", "us", ""],
    ["0", "7", 'void f<int>(int *, "x")', "13", "(128, 1, 1)", "(8, 2, 1)", "1,234.5", "wide"],
    ["1", "7", "g", "13", "(32, 1, 1)", "(1, 1, 1)", "", "narrow"],
)


def test_a_raw_page(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("==PROF== Connected to process 7\n" + RAW)
    first, second = ncu_csv.read(path).launches
    assert first.kernel == 'void f<int>(int *, "x")' and first.grid == (8, 2, 1) and first.block == (128, 1, 1)
    assert first.duration_ns == 1234500.0 and first.stream == 13
    assert first.metrics["gpu__time_duration.sum"].unit == "ns" and first.metrics["launch__kind"].value == "wide"
    assert second.duration_ns is None and list(second.metrics) == ["launch__kind"]


def test_it_is_stored_as_it_was_read(tmp_path, db):
    path = make.ncu_raw_csv(tmp_path / "raw.csv", 20, 40)
    summary = import_file(path, db)
    read, stored = ncu_csv.read(path), profiles.load(db, summary.profile)
    assert stored.provenance == read.provenance
    for one, other in zip(read.launches, stored.launches, strict=True):
        assert dict(one.metrics) == dict(other.metrics) and len(one.metrics) == 40
        assert (one.kernel, one.grid, one.duration_ns) == (other.kernel, other.grid, other.duration_ns)


def test_importing_again_replaces(tmp_path, db):
    path = make.ncu_raw_csv(tmp_path / "raw.csv", 3, 4)
    for _ in range(2):
        import_file(path, db)
    assert [stored.rows for stored in profiles.listed(db)] == [3]


@pytest.mark.parametrize("launches", [100, pytest.param(1000, marks=pytest.mark.timing)])
def test_many_launches_of_300_metrics_and_1000_in_one_second(tmp_path, db, launches):
    path = make.ncu_raw_csv(tmp_path / "raw.csv", launches, 300)
    start = time.process_time()
    summary = import_file(path, db)
    assert launches < 1000 or time.process_time() - start < 1
    assert summary.found == launches
    assert len(profiles.load(db, summary.profile).launches[-1].metrics) == 300


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: "\n".join(text.splitlines()[:1]) + "\n", "no row of units"),
        (lambda text: "\n".join(text.splitlines()[:2]) + "\n", "has no launches"),
        (lambda text: text.replace('"us"', '"us",""'), "rows differ in length"),
        (lambda text: text.replace('"13","(128', '"(128'), "rows differ in length"),
        (lambda text: text.replace('"0","7"', '"1","7"'), "not in order"),
        (lambda text: text.replace('"0","7"', '"x","7"'), "has no number"),
        (lambda text: text.replace('"13","(32', '"13"x,"(32'), "is damaged in line"),
        (lambda text: text.replace("wide", "wi\0de"), "zero bytes"),
    ],
)
def test_damage_is_one_line(tmp_path, change, complaint):
    path = tmp_path / "raw.csv"
    path.write_text(change(RAW))
    with pytest.raises(UserError, match=complaint) as caught:
        ncu_csv.read(path)
    assert "\n" not in str(caught.value)


DETAILS = table(
    ["ID", "Kernel Name", "Stream", "Block Size", "Grid Size", "Section Name", "Metric Name", "Metric Unit",
     "Metric Value", "Rule Name", "Rule Type", "Rule Description", "Estimated Speedup Type", "Estimated Speedup"],
    ["0", "f", "7", "(128, 1, 1)", "(8, 1, 1)", "GPU Speed Of Light Throughput", "Duration", "us", "2.5", *[""] * 5],
    ["0", "f", "7", "(128, 1, 1)", "(8, 1, 1)", "Launch Statistics", "Function Cache Configuration", "", "None",
     *[""] * 5],
    ["0", "f", "7", "(128, 1, 1)", "(8, 1, 1)", "Launch Statistics", "", "", "", "LaunchConfiguration", "OPT",
     "The grid is too small.", "global", "93.9"],
    ["1", "f", "7", "(128, 1, 1)", "(8, 1, 1)", "GPU Speed Of Light Throughput", "Duration", "ns", "900", *[""] * 5],
    ["1", "f", "7", "(128, 1, 1)", "(8, 1, 1)", "Launch Statistics", "Function Cache Configuration", "", "None",
     *[""] * 5],
)  # fmt: skip


def test_a_details_page(tmp_path):
    path = tmp_path / "details.csv"
    path.write_text(DETAILS)
    first, second = ncu_csv.read(path).launches
    assert (first.duration_ns, second.duration_ns) == (2500.0, 900.0)
    assert first.metrics["launch__func_cache_config"].value == "None"
    (finding,) = first.findings
    assert (finding.rule, finding.kind, finding.gain, finding.gain_scope) == (
        "LaunchConfiguration", "optimization", 93.9, "global",
    )  # fmt: skip


def test_a_details_page_that_stops_between_rows_is_partial(tmp_path):
    """The last launch lacks a metric that the first one has."""
    path = tmp_path / "details.csv"
    path.write_text("\r\n".join(DETAILS.splitlines()[:-1]) + "\r\n")
    about = ncu_csv.read(path).provenance
    assert (about.found, about.expected) == (1, 2)


def test_pages_are_told_apart():
    raw, details = (next(csv.reader(io.StringIO(text))) for text in (RAW, DETAILS))
    assert ncu_csv.is_raw(raw) and not ncu_csv.is_long(raw)
    assert ncu_csv.is_long(details) and not ncu_csv.is_raw(details)


PROF = "==PROF== Disconnected from process 7\n"


@pytest.mark.parametrize("quoted", [RAW, DETAILS], ids=["raw", "details"])
@pytest.mark.parametrize(
    "after",
    [PROF, PROF + "real\t0m4.2s\n", "loss, 0.5, step 3\n", 'the "end\n', "\n\n" + PROF, '==WARNING== "x", "y"\n'],
)  # fmt: skip
def test_what_is_said_before_between_and_behind_is_no_row(tmp_path, quoted, after):
    path = tmp_path / "t.csv"
    path.write_text(quoted)
    whole = ncu_csv.read(path)
    lines = quoted.splitlines(keepends=True)
    path.write_text(
        '==PROF== Profiling "f" - 0: 0%\nepoch 1, "x"\n' + "".join(lines[:3]) + after + "".join(lines[3:]) + after
    )
    read = ncu_csv.read(path)
    assert [(x.kernel, x.duration_ns, dict(x.metrics)) for x in read.launches] == [
        (x.kernel, x.duration_ns, dict(x.metrics)) for x in whole.launches
    ]
    assert not read.provenance.partial


def test_two_runs_in_one_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(RAW + PROF + RAW.replace("launch__kind", "launch__other") + DETAILS)
    profile = ncu_csv.read(path)
    assert [x.place for x in profile.launches] == list(range(6))
    assert [x.duration_ns for x in profile.launches] == [1234500.0, None, 1234500.0, None, 2500.0, 900.0]
    assert profile.launches[2].metrics["launch__other"].value == "wide"
    assert profile.provenance.format == "ncu CSV, page raw and page details"


def test_a_row_that_begins_as_none_is_damage(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(RAW.replace('"0","7"', '0","7"'))
    with pytest.raises(UserError, match="is damaged in line 3: no row begins so"):
        ncu_csv.read(path)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("4.19 (2.09; 2.10)", 4190.0), ("1,234.50 {0: 2.09, 1: 2.10}", 1234500.0), ("(!) 7", None), ("n/a", None),
     ("(!) n/a", None), ("nan", None), ("no data", None), ("", None)],
)  # fmt: skip
def test_cells_with_instances_and_without_a_value(tmp_path, cell, value):
    path = tmp_path / "t.csv"
    path.write_text(RAW.replace("1,234.5", cell))
    (metric, *_), texts = ncu_csv.read(path).launches[0].metrics.values(), ncu_csv.read(path).launches[0].metrics.texts
    assert (metric.value if metric.name == "gpu__time_duration.sum" and cell != "(!) 7" else None) == value
    assert texts.keys() <= {"launch__kind", "gpu__time_duration.sum"}


SUMMARY = table(
    ["Process ID", "Kernel Name", "Block Size", "Grid Size", "Invocations", "Section Name", "Metric Name",
     "Metric Unit", "Minimum", "Maximum", "Average"],
    ["7", "f", "(128, 1, 1)", "(8, 1, 1)", "4", "GPU Speed Of Light Throughput", "Duration", "us", "1", "3", "2.5"],
    ["7", "f", "(128, 1, 1)", "(8, 1, 1)", "4", "Occupancy", "Achieved Occupancy", "%", "40", "50", "45.5"],
    ["7", "f", "(128, 1, 1)", "(9, 1, 1)", "1", "GPU Speed Of Light Throughput", "Duration", "us", "7", "7", "7"],
)  # fmt: skip


def test_a_summary_of_launches(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(PROF + SUMMARY)
    profile = ncu_csv.read(path)
    first, second = profile.launches
    assert (first.kind, first.count, first.duration_ns) == (RowKind.SUMMARY, 4, 10_000.0)
    assert first.metrics.number("sm__warps_active.avg.pct_of_peak_sustained_active") == 45.5
    assert (second.grid, second.count, second.duration_ns) == ((9, 1, 1), 1, 7000.0)
    (report,) = profile.tables
    rows = [dict(zip(report.columns, row, strict=True)) for row in report.rows]
    assert (rows[0]["Minimum"], rows[0]["Maximum"], rows[0]["Metric Unit"]) == (1000.0, 3000.0, "ns")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_text_as_powershell_writes_it(tmp_path, db, encoding):
    path = tmp_path / "t.csv"
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path.write_bytes(mark + ("==PROF== Connected\n" + RAW).encode(encoding))
    assert import_file(path, db).total_ns == 1234500.0


def test_a_table_behind_much_talk_is_found(tmp_path, db):
    path = tmp_path / "t.csv"
    path.write_text("step done\n" * 20_000 + RAW)
    assert import_file(path, db).found == 2


@pytest.mark.parametrize(
    ("section", "label", "unit", "name"),
    [
        ("GPU Speed Of Light", "SOL FB", "%", "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"),
        ("GPU Speed Of Light", "Memory [%]", "%", "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"),
        ("Memory Workload Analysis", "Memory Throughput", "byte/s", "dram__bytes.sum.per_second"),
        ("Command line profiler metrics", "inst_executed", "inst", "inst_executed"),
        ("Command line profiler metrics", "Duration", "ns", "Duration"),
        ("Launch Statistics", "smsp__x.sum", "", "smsp__x.sum"),
        ("PM Sampling", "Dropped Samples", "sample", "PM Sampling: Dropped Samples"),
    ],
)
def test_labels_of_all_years(section, label, unit, name):
    assert ncu_labels.metric(section, label, unit) == name


def test_launches_on_several_gpus_name_them_all(tmp_path):
    header = ["ID", "Kernel Name", "device__attribute_display_name", "gpu__time_duration.sum"]
    rows = [["0", "f", "GPU A", "1"], ["1", "f", "GPU B", "1"], ["2", "f", "GPU A", "1"], ["3", "f", "", "1"]]
    path = tmp_path / "raw.csv"
    path.write_text(table(header, ["", "", "", "us"], *rows))
    assert ncu_csv.read(path).provenance.chip == "GPU A, GPU B"


def test_columns_that_other_versions_and_programs_leave_out(tmp_path):
    path = tmp_path / "t.csv"
    header = [
        "ID",
        "Process ID",
        "Kernel Name",
        "Section Name",
        "Metric Name",
        "Metric Unit",
        "Metric Value",
        "Rule Name",
    ]
    rows = [["0", "942", "f", "GPU Speed Of Light Throughput", "Duration", "ns", "2,848", ""],
            ["0", "942", "f", "SpeedOfLight", "", "", "", "SOLBottleneck"]]  # fmt: skip
    path.write_text(table(header, *rows))
    (launch,) = ncu_csv.read(path).launches
    assert (launch.duration_ns, launch.grid, [f.rule for f in launch.findings]) == (2848, None, ["SOLBottleneck"])
    path.write_text(table(["ID", "Metric Name", "Metric Value"], ["0", "launch__grid_size", "8"]))
    (launch,) = ncu_csv.read(path).launches
    assert launch.kernel == "kernel of no name" and launch.metrics.number("launch__grid_size") == 8


def test_a_page_that_a_spreadsheet_saved_without_quotes(tmp_path):
    path = tmp_path / "t.csv"
    out = io.StringIO()
    csv.writer(out).writerows(csv.reader(io.StringIO(RAW)))
    path.write_text("==PROF== Connected to process 7\n" + out.getvalue() + "==PROF== Disconnected\nreal\t0m1s\n")
    quoted = tmp_path / "q.csv"
    quoted.write_text(RAW)
    read, whole = ncu_csv.read(path), ncu_csv.read(quoted)
    assert [dict(x.metrics) for x in read.launches] == [dict(x.metrics) for x in whole.launches]
    assert read.launches[0].kernel == whole.launches[0].kernel and not read.provenance.partial


@pytest.mark.parametrize("lost", [1, 4, 9])
def test_a_file_cut_within_a_cell_is_partial(tmp_path, lost):
    path = tmp_path / "raw.csv"
    path.write_text(RAW.rstrip()[:-lost])
    profile = ncu_csv.read(path)
    assert [launch.kernel for launch in profile.launches] == ['void f<int>(int *, "x")']
    assert (profile.provenance.found, profile.provenance.expected) == (1, 2)


def test_a_duration_in_no_known_unit_is_unknown(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text(RAW.replace('"us"', '"fortnight"'))
    assert ncu_csv.read(path).launches[0].duration_ns is None


def test_thousands_in_the_count_of_launches(tmp_path):
    path = tmp_path / "summary.csv"
    path.write_text(
        table(
            ["Process ID", "Kernel Name", "Invocations", "Section Name", "Metric Name", "Metric Unit", "Average"],
            ["7", "f", "1,000", "Command line profiler metrics", "gpu__time_duration.sum", "ms", "2.0"],
        )
    )
    (launch,) = ncu_csv.read(path).launches
    assert (launch.count, launch.duration_ns) == (1000, 2e9)


def of_processes(*launches):
    """A details page: (process, ID, metric, value) each."""
    section = {"Duration": "GPU Speed Of Light Throughput", "Registers Per Thread": "Launch Statistics"}
    unit = {"Duration": "us", "Registers Per Thread": "register/thread"}
    about, metric = ("ID", "Process ID", "Host Name", "Kernel Name", "Section Name"), ("Name", "Unit", "Value")
    rows = ([number, one, "h", "f", section[name], name, unit[name], value] for one, number, name, value in launches)
    return table([*about, *(f"Metric {word}" for word in metric)], *rows)


def test_launches_of_two_processes_with_the_same_numbers(tmp_path):
    """As `mpirun -n 2 ncu --csv` prints them, into one file: one after the other, or their rows among each other's."""
    path, after_another = tmp_path / "two.csv", [
        ("7", "0", "Duration", "1.5"), ("7", "0", "Registers Per Thread", "32"),
        ("8", "0", "Duration", "2.5"), ("8", "0", "Registers Per Thread", "64"),
    ]  # fmt: skip
    for rows in (after_another, after_another[::2] + after_another[1::2]):
        path.write_text(of_processes(*rows))
        found = ncu_csv.read(path)
        registers = [launch.metrics.number("launch__registers_per_thread") for launch in found.launches]
        assert [launch.duration_ns for launch in found.launches] == [1500.0, 2500.0] and registers == [32.0, 64.0]
        assert not found.provenance.partial
    path.write_text(of_processes(*after_another[:3]))
    found = ncu_csv.read(path)
    assert (len(found.launches), found.provenance.expected) == (1, 2)


def test_a_raw_page_of_two_processes(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text(RAW.replace('"1","7","g"', '"0","8","g"'))
    assert [launch.kernel for launch in ncu_csv.read(path).launches] == ['void f<int>(int *, "x")', "g"]


def test_the_last_launch_of_every_process_may_be_cut(tmp_path):
    path = tmp_path / "two.csv"
    rows = [(process, number, name, "1") for number in "01" for name in ("Duration", "Registers Per Thread")
            for process in "78"]  # fmt: skip
    path.write_text(of_processes(*rows[:-2]))
    found = ncu_csv.read(path)
    assert (len(found.launches), found.provenance.expected) == (2, 4)


def test_what_is_missing_of_an_earlier_run_is_not_forgotten(tmp_path):
    """Two runs in one file, the first of them stopped in the middle of a launch."""
    path = tmp_path / "runs.csv"
    whole = [("7", "0", "Duration", "1"), ("7", "0", "Registers Per Thread", "2")]
    path.write_text(of_processes(*whole, ("7", "1", "Duration", "1")) + of_processes(*whole))
    found = ncu_csv.read(path)
    assert (len(found.launches), found.provenance.expected) == (2, 3) and "was left out" in found.provenance.note
