"""Damaged files of every kind: a one-line error, or an import that says what is missing; never a silent subset.

Each file is cut at every block of 512 bytes, and where its own format ends a block; and 500 times one random bit of it
is flipped. The default run takes a sample of both.
"""

import random
from collections.abc import Callable
from pathlib import Path

import generators as make
import pytest
import reports
from importing import import_all

from autotune import UserError
from autotune.importers import ncu_rep_framing, registry
from autotune.profiling.store_profile import ProfileSummary
from tuning_db import TuningDB, profiles

FLIPS, BLOCK = 500, 512
SAMPLE_FLIPS, SAMPLE_CUTS = 40, 25
SAMPLE_REPORT = 6  # of a report: each is read by a process of its own
BETWEEN = "cut between two blocks"


def nsys(folder: Path) -> Path:
    return make.nsys_sqlite(folder / "t.sqlite", *make.many_kernels(60))


def graphs(folder: Path) -> Path:
    kernels, ranges = make.many_kernels(30)
    graph = make.Kernel("graph", 500, 100, 4000, graph=True)
    return make.nsys_sqlite(folder / "g.sqlite", [graph, *kernels], ranges)


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "nsys": nsys,
    "nsys with a graph": graphs,
    "ncu raw": lambda folder: make.ncu_raw_csv(folder / "raw.csv", 12, 25),
    "nsys trace": lambda folder: make.nsys_trace_csv(folder / "trace.csv", make.many_kernels(40)[0]),
    "nsys summary": lambda folder: make.nsys_summary_csv(folder / "summary.csv", make.many_kernels(40)[0]),
    "helion": lambda folder: make.helion_csv(folder / "helion.csv"),
}


def imported(path: Path, db: TuningDB) -> tuple[int, bool] | None:
    """(rows, whether it says that some are missing), or None for an error of one line or a file of no known kind."""
    try:
        found = [_checked(summary, path, db) for summary in import_all(path, db)]
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    # Of a log whose run's name is damaged in a row two runs are made.
    return sum(rows for rows, _ in found), any(says_so for _, says_so in found)


def _checked(summary: ProfileSummary, path: Path, db: TuningDB) -> tuple[int, bool]:
    stored = profiles.load(db, summary.profile)
    # A report with a damaged column is kept as a table.
    rows = len(stored.launches) or sum(len(table.rows) for table in stored.tables)
    assert rows == summary.found == stored.provenance.found
    about = stored.provenance
    # A CSV cannot say whether it is whole, and says that instead; a report only between two blocks.
    open_end = "no end mark" in about.note and (about.format != "ncu-rep" or path.stem == BETWEEN)
    return summary.found, about.partial or open_end


def check(damaged: Path, whole: int, db: TuningDB, what: str) -> None:
    result = imported(damaged, db)
    if result is not None:
        rows, says_so = result
        assert rows == whole or (rows < whole and says_so), f"{what}: {rows} of {whole} without a word"


def ends_of_blocks(data: bytes) -> set[int]:
    return {block.end for block in ncu_rep_framing.blocks(data)}


def cuts(data: bytes) -> list[int]:
    places = set(range(0, len(data), BLOCK))
    if data.startswith(ncu_rep_framing.MAGIC):
        places |= {place for block in ncu_rep_framing.blocks(data) for place in (block.start, block.end)}
    return sorted(places - {len(data)})


def cut_everywhere(path: Path, db: TuningDB, folder: Path, count: int | None) -> None:
    data = path.read_bytes()
    whole = imported(path, db)
    assert whole is not None
    places = cuts(data)
    if count is not None:
        places = sorted(random.Random(0).sample(places, min(count, len(places))))
    for place in places:
        # Where a block ends, a report that was stopped there would end too.
        between = data.startswith(ncu_rep_framing.MAGIC) and place in ends_of_blocks(data)
        damaged = folder / f"{BETWEEN if between else 'cut'}{path.suffix}"
        damaged.write_bytes(data[:place])
        check(damaged, whole[0], db, f"cut at {place}")


def flip_bits(path: Path, db: TuningDB, folder: Path, count: int) -> None:
    data = path.read_bytes()
    whole = imported(path, db)
    assert whole is not None
    draw = random.Random(1)
    for _ in range(count):
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        damaged = folder / f"flipped{path.suffix}"
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        damaged.write_bytes(flipped)
        check(damaged, whole[0], db, f"bit {bit} of byte {place}")


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_cut(kind, tmp_path, db):
    cut_everywhere(SAMPLES[kind](tmp_path), db, tmp_path, SAMPLE_CUTS)


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_flipped(kind, tmp_path, db):
    flip_bits(SAMPLES[kind](tmp_path), db, tmp_path, SAMPLE_FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SAMPLES))
def test_cut_at_every_block(kind, tmp_path, db):
    cut_everywhere(SAMPLES[kind](tmp_path), db, tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SAMPLES))
def test_500_flipped_bits(kind, tmp_path, db):
    flip_bits(SAMPLES[kind](tmp_path), db, tmp_path, FLIPS)


RECORDED = ("small.base.csv", "small.raw.csv", "small.details.csv")


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_csv(name, recorded, tmp_path, db):
    cut_everywhere(recorded(name), db, tmp_path, SAMPLE_CUTS)
    flip_bits(recorded(name), db, tmp_path, SAMPLE_CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_csv_everywhere(name, recorded, tmp_path, db):
    cut_everywhere(recorded(name), db, tmp_path, None)
    flip_bits(recorded(name), db, tmp_path, FLIPS)


@pytest.fixture
def short_report(recorded, tmp_path) -> Path:
    """Six launches of a recorded report with 100 metrics each."""
    pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
    path = tmp_path / "short.ncu-rep"
    path.write_bytes(reports.many(recorded("small.ncu-rep").read_bytes(), 6, 100))
    return path


def test_report_cut(short_report, tmp_path, db):
    cut_everywhere(short_report, db, tmp_path, SAMPLE_REPORT)


def test_report_flipped(short_report, tmp_path, db):
    flip_bits(short_report, db, tmp_path, SAMPLE_REPORT)


@pytest.mark.slow
def test_short_report_cut_at_every_block(short_report, tmp_path, db):
    cut_everywhere(short_report, db, tmp_path, None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_report_500_flipped_bits(recorded, tmp_path, db):
    pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
    flip_bits(recorded("small.ncu-rep"), db, tmp_path, FLIPS)


@pytest.mark.parametrize("content", [b"", b"NVR", b"NVR\0", b"\0" * 100, b"hello\n", b"ID\n", bytes(range(256)) * 9])
def test_empty_and_junk(tmp_path, db, content):
    path = tmp_path / "junk"
    path.write_bytes(content)
    assert imported(path, db) is None
    assert not profiles.listed(db)


def test_not_a_file(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="cannot be read"):
            registry.recognize(path)
