"""Nsight Systems' exports as each year wrote them: which GPU, which version, which tables."""

import sqlite3

import generators as make
import pytest
from generators import Kernel

from autotune import UserError
from autotune.importers import nsys_sqlite
from autotune.importers.nsys_schema import OLD_GPUS

ONE = (Kernel("k", 150, 1000, 5000),)


def export(path, *statements, kernels=ONE, ranges=()):
    """An export of 2025, changed by SQL."""
    made = make.nsys_sqlite(path / "t.sqlite", list(kernels), list(ranges))
    db = sqlite3.connect(made)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.execute("VACUUM")
    db.close()
    return made


def about(path):
    return nsys_sqlite.read(path).provenance


TWO_GPUS = ("DELETE FROM TARGET_INFO_GPU", "INSERT INTO TARGET_INFO_GPU VALUES (1, 'GPU B', 8), (0, 'GPU A', 9)")


def test_the_kernels_say_which_gpu(tmp_path):
    assert about(export(tmp_path, *TWO_GPUS)).chip == "GPU A"
    on_the_other = Kernel("k", 150, 1000, 5000, device=1)
    (tmp_path / "t.sqlite").unlink()
    made = about(export(tmp_path, *TWO_GPUS, kernels=[on_the_other]))
    assert made.chip == "GPU B" and made.devices == {1: "GPU B"}
    (tmp_path / "t.sqlite").unlink()
    both = [on_the_other, Kernel("k", 250, 5000, 6000), Kernel("k", 350, 6000, 7000)]
    made = about(export(tmp_path, *TWO_GPUS, kernels=both))
    assert made.chip == "GPU B, GPU A" and made.devices == {0: "GPU A", 1: "GPU B"}  # the busiest first


def test_a_process_has_numbers_of_its_own(tmp_path):
    """CUDA_VISIBLE_DEVICES=1 makes the second GPU a process's first one."""
    pid = make.PROCESS >> 24 & 0xFFFFFF
    numbered = (
        "CREATE TABLE TARGET_INFO_CUDA_DEVICE (gpuId INTEGER, cudaId INTEGER, pid INTEGER, uuid TEXT)",
        f"INSERT INTO TARGET_INFO_CUDA_DEVICE VALUES (1, 0, {pid}, ''), (0, 0, {pid + 1}, '')",
    )
    made = about(export(tmp_path, *TWO_GPUS, *numbered))
    assert made.chip == "GPU B" and made.devices == {0: "GPU B"}


def test_a_gpu_that_the_kernels_do_not_name(tmp_path):
    no_device = "ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL DROP COLUMN deviceId"
    assert about(export(tmp_path, no_device)).chip == "NVIDIA H100 80GB HBM3"  # there is only one
    (tmp_path / "t.sqlite").unlink()
    assert about(export(tmp_path, no_device, *TWO_GPUS)).chip == ""
    (tmp_path / "t.sqlite").unlink()
    unknown = Kernel("k", 150, 1000, 5000, device=7)
    assert about(export(tmp_path, *TWO_GPUS, kernels=[unknown])).chip == ""


@pytest.mark.parametrize("column", ["deviceId", "id"])
def test_gpus_of_2020(tmp_path, column):
    old = (
        "DROP TABLE TARGET_INFO_GPU",
        f"CREATE TABLE {OLD_GPUS} ({column} INTEGER, name TEXT, numMultiprocessors INTEGER)",
        f"INSERT INTO {OLD_GPUS} VALUES (1, 'GPU B', 80), (0, 'GPU A', 80)",
    )  # fmt: skip
    assert about(export(tmp_path, *old)).chip == "GPU A"


@pytest.mark.parametrize(
    ("table", "rows", "version"),
    [
        ("EXPORT_META_DATA", {"EXPORT_PRODUCT_VERSION": "2022.1.3"}, "2022.1.3"),
        ("META_DATA_EXPORT", {"EXPORT_SCHEMA_VERSION": "3.24", "EXPORT_PRODUCT_VERSION": "2026.1.1"}, "2026.1.1"),
        ("META_DATA_EXPORT", {"EXPORT_SCHEMA_VERSION": "3.24.14"}, "schema 3.24.14"),
        ("META_DATA_EXPORT", {"EXPORT_SCHEMA_VERSION_MAJOR": 2, "EXPORT_SCHEMA_VERSION_MINOR": 7}, "schema 2.7"),
        ("META_DATA_EXPORT", {"EXPORT_PRODUCT_VERSION": None, "EXPORT_PRODUCT_NAME": "NVIDIA Nsight Systems"}, ""),
        ("SOMETHING_ELSE", {"EXPORT_PRODUCT_VERSION": "1"}, ""),
    ],
)  # fmt: skip
def test_the_version(tmp_path, table, rows, version):
    made = export(tmp_path, "DROP TABLE META_DATA_EXPORT", f"CREATE TABLE {table} (name TEXT, value TEXT)")
    db = sqlite3.connect(made)
    db.executemany(f"INSERT INTO {table} VALUES (?, ?)", list(rows.items()))
    db.commit()
    db.close()
    assert about(made).tool_version == version


SUFFIXED = ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "StringIds", "TARGET_INFO_GPU")


@pytest.mark.parametrize("table", SUFFIXED[:3])
@pytest.mark.parametrize("suffix", ["_V2", "_V3", "_V12"])
def test_a_table_with_a_suffix_is_the_same_table(tmp_path, table, suffix):
    plain = nsys_sqlite.read(export(tmp_path, ranges=[("token", 50, 200)]))
    (tmp_path / "t.sqlite").unlink()
    renamed = f"ALTER TABLE {table} RENAME TO {table}{suffix}"
    read = nsys_sqlite.read(export(tmp_path, renamed, ranges=[("token", 50, 200)]))
    assert read.launches == plain.launches and read.ranges == plain.ranges and read.launches[0].range == 0


def test_the_newest_table_that_has_rows_is_read(tmp_path):
    older = "CREATE TABLE NVTX_EVENTS_V2 AS SELECT * FROM NVTX_EVENTS"
    newer = ("CREATE TABLE NVTX_EVENTS_V3 AS SELECT * FROM NVTX_EVENTS", "DELETE FROM NVTX_EVENTS_V3")
    drop = "DELETE FROM NVTX_EVENTS"
    made = export(tmp_path, older, *newer, drop, ranges=[("token", 50, 200)])
    assert [one.name for one in nsys_sqlite.read(made).ranges] == ["token"]


GRAPH_TABLES = (
    "CREATE TABLE CUDA_GRAPH_EVENTS (start INTEGER, end INTEGER, eventClass INTEGER, globalTid INTEGER, "
    "nameId INTEGER, graphId INTEGER, originalGraphId INTEGER, graphExecId INTEGER)",
    "CREATE TABLE CUDA_GRAPH_NODE_EVENTS (start INTEGER, end INTEGER, eventClass INTEGER, globalTid INTEGER, "
    "nameId INTEGER, graphNodeId INTEGER, originalGraphNodeId INTEGER)",
    f"INSERT INTO CUDA_GRAPH_NODE_EVENTS VALUES (60, 61, 0, {make.THREAD}, 1, 7, NULL), "
    f"(90, 91, 0, {make.THREAD}, 1, 8, 7)",
    "UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET graphNodeId = 8",
)


def test_a_kernel_of_a_graph_is_in_the_range_of_its_launch_or_else_of_its_capture(tmp_path):
    ranges = [("captured", 50, 70), ("instantiated", 85, 95)]
    read = nsys_sqlite.read(export(tmp_path, *GRAPH_TABLES, ranges=ranges))
    assert read.ranges[read.launches[0].range].name == "captured"  # node 8 is a clone of node 7
    (tmp_path / "t.sqlite").unlink()
    read = nsys_sqlite.read(export(tmp_path, *GRAPH_TABLES, ranges=[*ranges, ("launched", 140, 160)]))
    assert read.ranges[read.launches[0].range].name == "launched"


def test_graphs_without_kernels_say_how_to_record_them(tmp_path):
    made = export(tmp_path, *GRAPH_TABLES, "DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL")
    with pytest.raises(UserError, match=r"has CUDA graphs and none of their kernels; .* --cuda-graph-trace node"):
        nsys_sqlite.read(made)


def test_an_export_of_2022_without_cuda_says_how_to_record_it(tmp_path):
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE OSRT_API (start INTEGER, end INTEGER)")
    db.execute("CREATE TABLE EXPORT_META_DATA (name TEXT, value TEXT)")
    db.commit()
    db.close()
    with pytest.raises(UserError, match="has no kernels; record with nsys profile"):
        nsys_sqlite.read(path)
