"""Numbers printed in a system's locale: one reading for a whole file, and a refusal where nothing tells which."""

import csv
import io
import re

import generators as make
import pytest
from hypothesis import given
from hypothesis import strategies as st
from importing import import_file

from autotune import UserError
from autotune.importers import csv_tables, helion_log, ncu_csv, nsys_csv, number_format, registry, units
from autotune.importers.number_format import Decimal
from tuning_db import open_db

ENGLISH = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
IN_COMMA = str.maketrans(".,", ",.")


def in_german(text: str, is_header: number_format.IsHeader, group: bool) -> str:
    """A CSV as it would be printed with comma decimals and point thousands; group: whole numbers in thousands too."""
    out = io.StringIO()
    table = csv.writer(out, quoting=csv.QUOTE_ALL)
    header: list[str] = []
    for row in csv.reader(io.StringIO(text)):
        if is_header(row):
            header = row
        elif header:
            row = [_german(cell, group) if _numeric(name) else cell for name, cell in zip(header, row, strict=False)]
        table.writerow(row)
    return out.getvalue()


def _numeric(column: str) -> bool:
    text = (
        "Name",
        "Description",
        "Unit",
        "Type",
        "CC",
        "Device",
        "Operation",
        "config",
        "status",
        "Process",
        "ID",
        "id",
    )
    return "__" in column or not column.endswith(text)


def _german(cell: str, group: bool) -> str:
    if not ENGLISH.fullmatch(cell):
        return cell
    whole, _, rest = cell.partition(".")
    if group and whole.lstrip("-").isdigit():
        whole = f"{int(whole):,}"
    return (whole + ("." + rest if rest else "")).translate(IN_COMMA)


def numbers(profile):
    return [
        (x.kernel, x.grid, x.block, x.start_ns, x.duration_ns, x.count, [f.gain for f in x.findings],
         {name: metric.value for name, metric in x.metrics.items()})
        for x in profile.launches
    ]  # fmt: skip


def generated(name):
    kernels, _ = make.many_kernels(40)
    return {
        "ncu raw": lambda folder: make.ncu_raw_csv(folder / "raw.csv", 12, 25),
        "nsys trace": lambda folder: make.nsys_trace_csv(folder / "trace.csv", kernels),
        "nsys summary": lambda folder: make.nsys_summary_csv(folder / "summary.csv", kernels),
        "helion": lambda folder: make.helion_csv(folder / "helion.csv"),
    }[name]


def _helion(path, *option):
    (profile,) = helion_log.read(path, *option)
    return profile


READERS = {
    "small.base.csv": (ncu_csv.read, ncu_csv.is_header), "small.raw.csv": (ncu_csv.read, ncu_csv.is_header),
    "small.details.csv": (ncu_csv.read, ncu_csv.is_header), "ncu raw": (ncu_csv.read, ncu_csv.is_header),
    "nsys trace": (nsys_csv.read, nsys_csv.is_header), "nsys summary": (nsys_csv.read, nsys_csv.is_header),
    "helion": (_helion, csv_tables.has(*helion_log.COLUMNS)),
}  # fmt: skip


@pytest.mark.parametrize("group", [False, True], ids=["as printed", "all in thousands"])
@pytest.mark.parametrize("name", READERS)
def test_every_csv_in_another_locale_gives_the_same_numbers_or_is_refused(recorded, tmp_path, name, group):
    path = recorded(name) if name.endswith(".csv") else generated(name)(tmp_path)
    read, is_header = READERS[name]
    expected = numbers(read(path))
    other = tmp_path / "german" / path.name
    other.parent.mkdir()
    other.write_text(in_german(path.read_text(), is_header, group))
    try:
        assert numbers(read(other)) == expected
    except UserError as error:
        assert "--decimal comma" in str(error)
    assert numbers(read(other, Decimal.COMMA)) == expected


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
@pytest.mark.parametrize("name", READERS)
def test_every_csv_with_another_separator_gives_the_same_numbers(recorded, tmp_path, name, separator):
    path = recorded(name) if name.endswith(".csv") else generated(name)(tmp_path)
    read, is_header = READERS[name]
    expected = numbers(read(path))
    other = tmp_path / "other" / path.name
    other.parent.mkdir()
    other.write_text(separated(path.read_text(), separator))
    assert registry.recognize(other) is registry.recognize(path)
    assert numbers(read(other)) == expected
    other.write_text(separated(in_german(path.read_text(), is_header, False), separator))
    assert numbers(read(other, Decimal.COMMA)) == expected


def separated(text: str, separator: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(csv.reader(io.StringIO(text)))
    return out.getvalue()


def raw(*rows, metrics=(("dram__bytes_read.sum", "byte"), ("gpu__time_duration.sum", "ns"))):
    out = io.StringIO()
    table = csv.writer(out, quoting=csv.QUOTE_ALL)
    table.writerow(["ID", "Kernel Name", "Block Size", "Grid Size", *(name for name, _ in metrics)])
    table.writerow(["", "", "", "", *(unit for _, unit in metrics)])
    for number, row in enumerate(rows):
        table.writerow([number, "mul", "(128, 1, 1)", "(64, 1, 1)", *row])
    return out.getvalue()


def values(path, *option):
    return [metric.value for x in ncu_csv.read(path, *option).launches for metric in x.metrics.values()]


PERCENT = ("sm__throughput.avg.pct_of_peak_sustained_elapsed", "%")
SCALED = ("gpu__time_duration.avg", "us")
OTHER = ("smsp__cycles_active.avg", "cycle")


@pytest.mark.parametrize(
    ("metrics", "rows", "expected"),
    [
        ((SCALED, PERCENT), [("250.112", "61,25")], [250112e3, 61.25]),  # a comma with two digits after it
        ((SCALED, PERCENT), [("250,112", "61.25")], [250112e3, 61.25]),
        ((SCALED, PERCENT), [("250.112", "61.25")], [250112.0, 61.25]),
        ((SCALED, PERCENT), [("250.112", "7")], None),
        ((SCALED, OTHER), [("250.112", "7.340.032")], [250112e3, 7340032]),  # two points
        ((SCALED, OTHER), [("250.112", "0.117")], [250112.0, 0.117]),  # no thousands begin with 0
        ((SCALED, OTHER), [("250,112", "1234,567")], [250112.0, 1234.567]),  # no thousands have four digits
        ((SCALED, PERCENT), [("250.112", "61,253")], [250112e3, 61.253]),  # no percentage is in thousands
        ((SCALED, PERCENT), [("250.112", "61.253")], [250112.0, 61.253]),
        ((SCALED, ("launch__grid_size", "")), [("250.112", "65.536")], [250112e3, 65536.0]),  # blocks are whole
        ((SCALED, ("gpu__time_duration.sum", "ns")), [("250.112", "117.344")], None),
        ((SCALED, ("gpu__time_duration.sum", "ns")), [("250,112", "117,344")], [250112e3, 117344.0]),
        ((SCALED, ("launch__thread_count", "thread")), [("250.112", "8.192")], [250112e3, 8192.0]),
        ((("dram__bytes.sum.per_second", "Gbyte/s"),), [("1.234",), ("2.345",)], None),
        ((SCALED,), [("250,112",)], None),
        ((SCALED,), [("250",), ("1e3",)], [250e3, 1e6]),
        ((SCALED, PERCENT), [("250\u202f112,5", "61,25")], [250112.5e3, 61.25]),  # French
        ((SCALED, PERCENT), [("250\u2019112.5", "61.25")], [250112.5e3, 61.25]),  # Swiss
        ((SCALED, PERCENT), [("12,34,567.5", "61.25")], [1234567.5e3, 61.25]),  # of India
    ],
)  # fmt: skip
def test_what_settles_the_separators(tmp_path, metrics, rows, expected):
    path = tmp_path / "raw.csv"
    path.write_text(raw(*rows, metrics=metrics))
    if expected is not None:
        assert values(path) == pytest.approx(expected)
        return
    with pytest.raises(UserError, match=r"can be read in two ways, such as .*; say --decimal comma or --decimal point"):
        values(path)
    assert values(path, Decimal.COMMA) != values(path, Decimal.POINT)


def test_cells_that_contradict_each_other_are_refused(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text(raw(("7.340.032", "250,5"), ("7,340,032", "250")))
    with pytest.raises(UserError, match='has "7,340,032", no number where a comma separates decimals'):
        values(path)
    path.write_text(raw(("61,253", "250.112"), metrics=(PERCENT, ("launch__grid_size", ""))))
    assert values(path) == [61.253, 250112.0]
    path.write_text(raw(("61,253", "250,112"), metrics=(PERCENT, ("launch__grid_size", ""))))
    with pytest.raises(UserError, match="disagree about what separates decimals; say --decimal"):
        values(path)


def test_a_size_in_thousands(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text(raw(("7.340.032", "250")).replace("(64, 1, 1)", "(65.536, 1, 1)"))
    assert ncu_csv.read(path).launches[0].grid == (65536, 1, 1)
    path.write_text(raw(("7,340,032", "250")).replace("(64, 1, 1)", "(65,536, 1, 1)"))
    assert ncu_csv.read(path).launches[0].grid == (65536, 1, 1)
    path.write_text(raw(("7,340,032", "250")).replace("(64, 1, 1)", "(1,128,128)"))
    assert ncu_csv.read(path).launches[0].grid == (1, 128, 128)


@given(st.integers(0, 10**9), st.integers(0, 99), st.sampled_from(list(Decimal)), st.sampled_from(["", ",", " ", "'"]))
def test_a_number_printed_in_a_locale_is_read_as_printed(whole, hundredths, decimal, group):
    mark, group = (".", group) if decimal is Decimal.POINT else (",", "." if group == "," else group)
    text = f"{whole:,}".replace(",", group) + f"{mark}{hundredths:02d}"
    assert decimal in number_format.readings(text)
    (row,) = list(number_format.rewritten(None, [["a"], [text]], csv_tables.has("a"), decimal))[1:]
    assert units.number(row[0]) == pytest.approx(whole + hundredths / 100)


def test_names_are_no_numbers(tmp_path):
    path = tmp_path / "sum.csv"
    header = "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name"
    path.write_text(f'{header}\n99.5,9000,3,3000.0,3000.0,2900,3100,10.0,"1,5"\n')
    assert [x.kernel for x in nsys_csv.read(path).launches] == ["1,5"]


def test_files_without_decimals_need_no_option(tmp_path):
    with open_db(tmp_path / "t.db") as db:
        path = tmp_path / "trace.csv"
        header = "Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Strm,Name"
        path.write_text(f"{header}\n100,2000,1,8,1,1,1,1,1,7,a\n")
        assert import_file(path, db).total_ns == 2000.0


METRICS = """==PROF== Connected to process 7 (app)
"ID","Kernel Name","Block Size","Grid Size","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","mul","(128, 1, 1)","(64, 1, 1)","9.0","Command line profiler metrics","gpu__time_duration.sum","ns","250.112"
"0","mul","(128, 1, 1)","(64, 1, 1)","9.0","Command line profiler metrics","dram__bytes.sum","byte","7.340.032"
"0","mul","(128, 1, 1)","(64, 1, 1)","9.0","Command line profiler metrics","sm__throughput.avg","%","61,25"
"""


def test_a_metric_a_row(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    (launch,) = ncu_csv.read(path).launches
    assert launch.duration_ns == 250112.0 and launch.metrics.number("dram__bytes.sum") == 7340032.0
    assert launch.metrics.number("sm__throughput.avg") == 61.25
