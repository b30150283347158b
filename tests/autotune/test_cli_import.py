"""`autotune import`: what it prints, keeps and refuses."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from tuning_db import open_db, profiles

TRACE = (
    "Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Strm,Name\n"
    "100,2000,1,8,1,1,128,1,1,7,one\n3000,500,2,8,1,1,128,1,1,7,two\n"
)


def test_import_says_what_it_read(autotune, tmp_path, own_database) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    result = autotune("import", path)
    assert result.exit_code == 0
    assert result.stdout == "trace.csv: nsys stats, cuda_gpu_trace, 2 rows, 0 of ours, 2.5 µs in all; profile 1\n"
    assert result.stderr == ""
    (summary,) = json.loads(autotune("import", path, "--json").stdout)["imported"]
    assert (summary["found"], summary["total_ns"], summary["kinds"]) == (2, 2500.0, {"kernel": 2})
    with open_db(own_database, readonly=True) as db:
        assert len(profiles.listed(db)) == 1


def test_a_partial_file_says_so(autotune, tmp_path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE + "4000,1")
    assert "partial, 2 of 3" in autotune("import", path).stdout


AMBIGUOUS = """"ID","Kernel Name","gpu__time_duration.sum"
"","","us"
"0","mul","250.112"
"""


def test_the_command_takes_what_separates_decimals(autotune, complaint, tmp_path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text(AMBIGUOUS)
    assert "can be read in two ways" in complaint("import", path)
    assert "say --decimal comma or --decimal point" in complaint("import", path)
    assert "250112.0 µs in all" in autotune("import", path, "--decimal", "comma").stdout
    assert "250.1 µs in all" in autotune("import", path, "--decimal", "point").stdout


def test_a_refused_file_makes_no_database(complaint, tmp_path, own_database) -> None:
    bad, empty = tmp_path / "notes.txt", tmp_path / "empty"
    bad.write_text("hello\n")
    empty.touch()
    assert "is of no kind that can be imported; these can: Nsight Compute report" in complaint("import", bad)
    assert "is empty" in complaint("import", empty)
    assert "cannot be read" in complaint("import", tmp_path / "nowhere")
    assert not own_database.exists()


LONG_NAME = "k" * 100_000  # more than a column of the database holds


@pytest.mark.parametrize("text", [TRACE.splitlines()[0] + "\n", TRACE.replace("one", LONG_NAME)], ids=["read", "kept"])
def test_a_file_that_is_refused_late_leaves_nothing(complaint, tmp_path, text) -> None:
    path, database = tmp_path / "trace.csv", tmp_path / "new" / "folder" / "tuning.db"
    path.write_text(text)
    assert str(path) in complaint("import", path, "--db", database)
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_that_was_there_stays(autotune, complaint, tmp_path) -> None:
    path, database = tmp_path / "trace.csv", tmp_path / "tuning.db"
    with open_db(database):
        pass
    path.write_text(TRACE.replace("one", LONG_NAME))
    complaint("import", path, "--db", database)
    assert database.exists()
    path.write_text(TRACE)
    assert autotune("import", path, "--db", database).exit_code == 0


def test_each_file_is_imported_or_refused_by_itself(autotune, tmp_path, own_database) -> None:
    good, bad, damaged, other = (tmp_path / name for name in ("a.csv", "run.nsys-rep", "cut.csv", "b.csv"))
    good.write_text(TRACE)
    bad.write_bytes(b"\0NVIDIA")
    damaged.write_text(TRACE.splitlines()[0] + "\n")
    other.write_text(TRACE.replace("one", "three"))
    result = autotune("import", good, bad, damaged, tmp_path / "nowhere", other)
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["a.csv", "b.csv"]
    first, second, third, last = result.stderr.splitlines()
    assert first.startswith(f"refused: {bad} is Nsight Systems' own report; export it with nsys export --type sqlite")
    assert second.startswith(f"refused: {damaged} has no kernels") and "cannot be read" in third
    assert last == "autotune: error: 3 of 5 files were refused; the others are imported"
    with open_db(own_database, readonly=True) as db:
        assert [stored.provenance.file for stored in profiles.listed(db)] == ["a.csv", "b.csv"]


def test_refused_files_are_in_the_document(autotune, tmp_path, own_database) -> None:
    good, bad = tmp_path / "a.csv", tmp_path / "notes.txt"
    good.write_text(TRACE)
    bad.write_text("hello\n")
    result = autotune("import", good, bad, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2 and [row["file"] for row in document["imported"]] == ["a.csv"]
    (refused,) = document["refused"]
    assert refused["file"] == "notes.txt" and "is of no kind" in refused["reason"]


def test_copies_are_counted_apart(autotune, tmp_path, own_database) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE + "4000,100,3,,,,,,,7,[CUDA memcpy HtoD]\n")
    assert ", 3 rows (2 kernels, 1 copy), 0 of ours, 2.6 µs in all" in autotune("import", path).stdout


def test_packed_files_are_read(autotune, complaint, tmp_path, own_database) -> None:
    packed = tmp_path / "trace.csv.xz"
    packed.write_bytes(lzma.compress(TRACE.encode()))
    assert autotune("import", packed).stdout.startswith("trace.csv: ")
    packed.write_bytes(lzma.compress(TRACE.encode() * 1000)[:-40])
    assert "is damaged" in complaint("import", packed)
    packed.write_bytes(b"\xfd7zXZ\0" + bytes(100))
    assert "is damaged" in complaint("import", packed)


@pytest.mark.parametrize("ending", ["xz", "gz"])
def test_a_packed_report_is_read(autotune, tmp_path, own_database, ending) -> None:
    pytest.importorskip("ncu_report")
    report = Path(__file__).parent.parent / "fixtures" / "nsight" / "small.ncu-rep.xz"
    if ending == "gz":
        packed = tmp_path / "small.ncu-rep.gz"
        packed.write_bytes(gzip.compress(lzma.decompress(report.read_bytes())))
        report = packed
    assert autotune("import", report).stdout.startswith("small.ncu-rep: ")
