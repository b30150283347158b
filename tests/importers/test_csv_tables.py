"""What is around and between the cells of a profiler's CSV: separators, encodings, and lines that are no rows."""

import codecs

import pytest
from importing import import_file

from autotune import UserError
from autotune.importers import registry

HEAD = ["ID", "Process ID", "Kernel Name", "Block Size", "Grid Size"]
METRICS = ["dram__bytes_read.sum", "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"]
POINT, COMMA = ["7,340,032", "250,112", "61.25"], ["7.340.032", "250.112", "61,25"]
SUM = "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name\n"
ROWS = "90.0,9000,3,3000.0,3000.0,2900,3100,10.0,mul\n10.0,1000,1,1000.0,1000.0,1000,1000,0.0,add\n"
HELION = (
    "timestamp_s,config_index,generation,status,perf_ms,compile_time_s,config\n"
    '0.10,1,0,ok,1.25,0.40,"helion.Config(num_warps=4)"\n'
)


def line(cells, separator=","):
    return separator.join(f'"{cell}"' for cell in cells) + "\n"


def raw(launches=2, cells=POINT, separator=",", between=""):
    """A raw page; between: what is said after its first launch."""
    rows = [line([str(n), "7", "mul(float *, int)", "(128, 1, 1)", "(64, 1, 1)", *cells], separator)
            for n in range(launches)]  # fmt: skip
    units = line([""] * len(HEAD) + ["byte", "ns", "%"], separator)
    return line(HEAD + METRICS, separator) + units + rows[0] + between + "".join(rows[1:])


@pytest.fixture
def imported(tmp_path, db):
    def call(text, name="file.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return import_file(path, db)

    return call


@pytest.mark.parametrize("separator", [",", ";", "\t", ", ", "; "])
@pytest.mark.parametrize("cells", [POINT, COMMA], ids=["point", "comma"])
def test_what_separates_cells_is_a_property_of_the_file(imported, separator, cells):
    found = imported(raw(2, cells, separator))
    assert (found.found, found.expected, found.total_ns) == (2, None, 500_224)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_without_quotes(imported, separator):
    assert imported(raw(2, COMMA, separator).replace('"', "")).total_ns == 500_224
    assert imported((SUM + ROWS).replace(",", separator)).total_ns == 10_000
    assert imported((SUM + ROWS).replace(",", separator).replace(".", ",")).total_ns == 10_000
    german = HELION.replace('"', "").replace(",", separator).replace(".", ",").replace("helion,", "helion.")
    assert imported(german).total_ns == 1.25e6


@pytest.mark.parametrize(
    "said",
    ['"PASS"\n', '"Result": "ok", "loss": 0.5\n', '{"a": 1, "b": [2, 3]}\n', "loss, 0.5, 0.25\n", "==PROF== done\n",
     "\n\n", "real 0m4.2s\n"],
)  # fmt: skip
def test_what_the_program_says_is_no_row(imported, said):
    """Before the table, between its rows and behind them, also where it begins with a quote."""
    text = said + raw(3, between=said) + said
    for again in (text, text.replace("\n", "\r\n")):
        found = imported(again)
        assert (found.found, found.expected, found.total_ns) == (3, None, 750_336)


def test_what_is_said_among_rows_without_quotes(imported):
    found = imported("loss, 0.5\n" + SUM + ROWS + "loss, 0.25\n" + ROWS.replace("mul", "sub") + "done, 3\n")
    assert (found.found, found.expected) == (4, None)


def test_a_row_whose_number_is_damaged_is_no_chatter(imported):
    with pytest.raises(UserError, match="a launch has no number"):
        imported(raw(3).replace('"1"', '"x"'))


def test_a_table_without_leading_numbers_keeps_all_its_rows(imported):
    text = "NVTX Range,Style,PID,TID,NVTX Inst,Kern Inst,Total Time (ns),Avg (ns),Kernel Name\n"
    found = imported(
        text + "step,PushPop,1,2,1,2,9,4.5,mul\n:eval,PushPop,1,2,1,2,9,4.5,mul\n7,PushPop,1,2,1,2,9,4.5,a\n"
    )
    assert found.found == 3


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("marked", [True, False])
def test_utf_16(imported, order, marked):
    mark = {"le": codecs.BOM_UTF16_LE, "be": codecs.BOM_UTF16_BE}[order] if marked else b""
    assert imported(mark + raw().encode(f"utf-16-{order}")).total_ns == 500_224


@pytest.mark.parametrize("text", [raw().replace("mul(", "mül("), raw().replace('"ns"', '"µs"')])
def test_an_old_encoding_is_named_with_what_converts_it(imported, text):
    with pytest.raises(UserError, match="iconv -f WINDOWS-1252 -t UTF-8"):
        imported(text.encode("cp1252"))
    assert imported(text.encode()).found == 2


def test_zeros_are_no_utf_16(tmp_path):
    path = tmp_path / "zeros.csv"
    path.write_bytes(bytes(4096))
    with pytest.raises(UserError, match="of no kind"):
        registry.importer_of(path)
