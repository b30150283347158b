"""Nsight Compute's CSV: units, numbers as it prints them, and files that stop in the middle."""

import csv
import io
import time

import generators as make
import pytest
from importing import import_file

from autotune import UserError
from autotune.importers import ncu_csv, units
from tuning_db import profiles


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("nsecond", ("ns", 1)), ("us", ("ns", 1e3)), ("msecond", ("ns", 1e6)), ("second", ("ns", 1e9)),
        ("byte", ("byte", 1)), ("Kbyte", ("byte", 1e3)), ("Mbyte", ("byte", 1e6)), ("Tbyte/s", ("byte/s", 1e12)),
        ("Gbyte/second", ("byte/s", 1e9)), ("byte/ns", ("byte/s", 1e9)), ("Ghz", ("hz", 1e9)), ("hz", ("hz", 1)),
        ("cycle/nsecond", ("hz", 1e9)), ("Kbyte/block", ("byte/block", 1e3)), ("%", ("%", 1)), ("", ("", 1)),
        ("inst/cycle", ("inst/cycle", 1)), ("register/thread", ("register/thread", 1)), ("Minst", ("inst", 1e6)),
        ("%/Kbyte", ("%/byte", 1e3)),
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
