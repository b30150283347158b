"""Nsight Systems: kernels, graphs and ranges from its SQLite export, and the CSV of nsys stats."""

import sqlite3
import time
from collections import Counter

import generators as make
import pytest
from generators import Kernel
from importing import import_file

from autotune import UserError
from autotune.importers import nsys_csv, nsys_sqlite
from tuning_db import profiles
from tuning_db.profile_records import RowKind


def by_range(profile):
    """Attributed nanoseconds by the innermost range's name."""
    counts = Counter()
    for launch in profile.launches:
        counts[None if launch.range is None else profile.ranges[launch.range].name] += int(launch.duration_ns)
    return dict(counts)


def test_nested_ranges_count_a_kernel_once(tmp_path):
    ranges = [("token", 0, 1000), ("layer", 100, 500), ("qkv", 200, 300), ("layer", 500, 900), ("later", 2000, 3000)]
    kernels = [
        Kernel("a", 250, 5000, 5010), Kernel("b", 300, 6000, 6100), Kernel("c", 950, 7000, 8000),
        Kernel("d", 600, 9000, 9001), Kernel("e", 1500, 9100, 9107), Kernel("f", 2500, 9200, 9203),
        Kernel("other thread", 250, 9300, 9320, thread=make.THREAD + 1),
    ]  # fmt: skip
    profile = nsys_sqlite.read(make.nsys_sqlite(tmp_path / "t.sqlite", kernels, ranges))
    # b was launched at the very end of qkv, which by then is over; e and the other thread's are in no range.
    assert by_range(profile) == {"qkv": 10, "layer": 101, "token": 1000, "later": 3, None: 27}
    names = [r.name for r in profile.ranges]
    parents = {i: r.parent for i, r in enumerate(profile.ranges)}
    assert names == ["token", "layer", "qkv", "layer", "later"]
    assert parents == {0: None, 1: 0, 2: 1, 3: 0, 4: None}


def test_geometry_chip_and_version(tmp_path):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 1, 10, 30, grid=6, threads=64)], [])
    profile = nsys_sqlite.read(path)
    (launch,) = profile.launches
    assert (launch.kernel, launch.grid, launch.block, launch.start_ns) == ("k", (6, 1, 1), (64, 1, 1), 10)
    assert profile.provenance.chip == "NVIDIA H100 80GB HBM3" and profile.provenance.tool_version == "2025.3.1"
    assert not profile.provenance.partial


def test_two_instances_of_a_template_have_their_own_names(tmp_path):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("void f<1>(int)", 1, 10, 30), Kernel("f", 2, 40, 50)], [])
    db = sqlite3.connect(path)
    db.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET shortName = (SELECT id FROM StringIds WHERE value = 'f')")
    db.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET demangledName = 999 WHERE start = 40")
    db.commit()
    db.close()
    assert [launch.kernel for launch in nsys_sqlite.read(path).launches] == ["void f<1>(int)", "f"]


def test_a_graphs_time_is_in_a_table_of_its_own(tmp_path):
    kernels = [Kernel("graph", 100, 1000, 5000, graph=True), Kernel("graph", 300, 6000, 9000, graph=True)]
    profile = nsys_sqlite.read(make.nsys_sqlite(tmp_path / "t.sqlite", kernels, [("token", 50, 200)]))
    assert [launch.kind for launch in profile.launches] == [RowKind.GRAPH] * 2
    assert by_range(profile) == {"token": 4000, None: 3000}


def test_an_export_of_graphs_alone(tmp_path):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("graph", 100, 1000, 5000, graph=True)], [])
    db = sqlite3.connect(path)
    db.execute("DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL")
    db.execute("DROP TABLE NVTX_EVENTS")
    db.commit()
    db.execute("VACUUM")
    db.close()
    assert by_range(nsys_sqlite.read(path)) == {None: 4000}


def test_older_exports_have_fewer_columns(tmp_path):
    """2022's NVTX_EVENTS has its text in the table, and its kernels no process."""
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 150, 1000, 5000)], [("token", 50, 200)])
    db = sqlite3.connect(path)
    db.execute("UPDATE NVTX_EVENTS SET text = 'token'")
    db.execute("ALTER TABLE NVTX_EVENTS DROP COLUMN textId")
    db.commit()
    db.close()
    assert by_range(nsys_sqlite.read(path)) == {"token": 4000}


def test_every_nanosecond_of_many_kernels_is_attributed(tmp_path, db):
    kernels, ranges = make.many_kernels(5_000)
    summary = import_file(make.nsys_sqlite(tmp_path / "t.sqlite", kernels, ranges), db)
    profile = profiles.load(db, summary.profile)
    total = sum(k.end - k.start for k in kernels)
    attributed = by_range(profile)
    assert summary.total_ns == total == sum(attributed.values())
    # What the generator launched within each range is known by the kernel's name.
    for name in ("qkv", "attention", "out", "gate_up", "down"):
        assert attributed[name] == sum(k.end - k.start for k in kernels if k.name == f"kernel_{name}")
    assert attributed["token"] == sum(k.end - k.start for k in kernels if k.name == "between")
    assert attributed[None] == sum(k.end - k.start for k in kernels if k.name == "outside")


@pytest.mark.timing
def test_100_000_kernels_and_20_000_copies_take_four_seconds(tmp_path, db):
    kernels, ranges = make.many_kernels(100_000)
    copies = [make.Copy(5 + i, 10 * i, 10 * i + 9, 4096, 1 if i % 3 else None) for i in range(20_000)]
    path = make.nsys_sqlite(tmp_path / "t.sqlite", kernels, ranges, copies)
    start = time.process_time()
    summary = import_file(path, db)
    assert time.process_time() - start < 4
    assert summary.kinds == {"kernel": 100_000, "copy": 13_333, "fill": 6_667}
    assert summary.total_ns == sum(k.end - k.start for k in kernels) + 9 * 20_000


@pytest.mark.parametrize("change", ["DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL", "DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL"])
def test_an_export_without_kernels_says_how_to_record_them(tmp_path, change):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 1, 10, 30)], [])
    db = sqlite3.connect(path)
    db.execute(change)
    db.commit()
    db.close()
    with pytest.raises(UserError, match="has no kernels; record with nsys profile"):
        nsys_sqlite.read(path)


@pytest.mark.parametrize("change", ["SET start = 'soon'", "SET gridX = 1.5", "SET globalPid = NULL"])
def test_rows_without_sense_are_refused(tmp_path, change):
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 1, 10, 30)], [])
    db = sqlite3.connect(path)
    db.execute(f"UPDATE CUPTI_ACTIVITY_KIND_KERNEL {change}")
    db.commit()
    db.close()
    with pytest.raises(UserError, match=r"is damaged .a row of CUPTI_ACTIVITY_KIND_KERNEL makes no sense"):
        nsys_sqlite.read(path)


@pytest.mark.parametrize("change", ["SET end = start - 1", "SET start = 0, end = 0"])
def test_rows_without_a_time_are_left_out_and_counted(tmp_path, change):
    """One of 100,000 kernels whose time could not be taken is no reason to refuse the others, nor at 0 ns on the page,
    which would be idle until the next."""
    path = make.nsys_sqlite(tmp_path / "t.sqlite", [Kernel("k", 1, 10, 30), Kernel("l", 2, 40, 60)], [])
    db = sqlite3.connect(path)
    db.execute(f"UPDATE CUPTI_ACTIVITY_KIND_KERNEL {change} WHERE start = 10")
    db.commit()
    found = nsys_sqlite.read(path)
    assert [(launch.kernel, launch.duration_ns) for launch in found.launches] == [("l", 20)]
    assert (found.provenance.found, found.provenance.expected) == (1, 2)
    assert found.provenance.note == "left out: 1 row without a time"
    db.execute(f"UPDATE CUPTI_ACTIVITY_KIND_KERNEL {change}")
    db.commit()
    db.close()
    with pytest.raises(UserError, match="has 2 rows, none of them with a time; record with"):
        nsys_sqlite.read(path)


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "bookmarks.sqlite"
    sqlite3.connect(path).execute("CREATE TABLE bookmarks (url)").connection.close()
    with pytest.raises(UserError, match="is no export of Nsight Systems; give one made by nsys export"):
        nsys_sqlite.read(path)


def test_the_trace_csv_has_the_exports_kernels(tmp_path):
    kernels, ranges = make.many_kernels(50)
    trace = nsys_csv.read(make.nsys_trace_csv(tmp_path / "t.csv", kernels))
    export = nsys_sqlite.read(make.nsys_sqlite(tmp_path / "t.sqlite", kernels, ranges))

    def seen(profile):
        return [(x.kernel, x.grid, x.block, x.start_ns, x.duration_ns, x.stream) for x in profile.launches]

    *kernels, copy = seen(trace)
    assert kernels == seen(export) and copy == ("[CUDA memcpy HtoD]", None, None, 1, 2, 7)
    assert trace.provenance.expected is None and "no end mark" in trace.provenance.note


def test_the_summary_csv_counts_launches(tmp_path):
    kernels, _ = make.many_kernels(50)
    path = make.nsys_summary_csv(tmp_path / "s.csv", kernels)
    text = path.read_text().replace("Total Time (ns)", "Total Time (us)")
    summary = nsys_csv.read(path)
    assert sum(x.count for x in summary.launches) == 50 and {x.kind for x in summary.launches} == {RowKind.SUMMARY}
    assert sum(x.duration_ns for x in summary.launches) == sum(k.end - k.start for k in kernels)
    path.write_text(text)
    assert sum(x.duration_ns for x in nsys_csv.read(path).launches) == 1000 * sum(k.end - k.start for k in kernels)


def test_another_report_behind_the_first_is_no_damage(tmp_path):
    kernels, _ = make.many_kernels(20)
    path = make.nsys_trace_csv(tmp_path / "t.csv", kernels)
    path.write_text("Processing [t.sqlite]...\n" + path.read_text() + "\nTime (%),Count\n100.0,3\n")
    profile = nsys_csv.read(path)
    assert len(profile.launches) == 21 and not profile.provenance.partial


def test_a_csv_cut_within_a_row_is_partial(tmp_path):
    kernels, _ = make.many_kernels(20)
    path = make.nsys_trace_csv(tmp_path / "t.csv", kernels)
    path.write_text("\n".join(path.read_text().splitlines()[:11]) + "\n123,45,1")
    profile = nsys_csv.read(path)
    assert (profile.provenance.found, profile.provenance.expected) == (10, 11) and profile.provenance.partial
