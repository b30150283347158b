"""Every report of nsys stats: several in a file, of all years, and what each becomes."""

import pytest
from importing import import_file

from autotune.importers import nsys_csv, registry, units
from tuning_db import profiles, traces
from tuning_db.profile_records import RowKind

SUM = "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),{}\n"
KERNELS = SUM.format("Name") + (
    '90.0,9000,3,3000.0,3000.0,2900,3100,10.0,"void mul<(int)4>(float *, int)"\n'
    "10.0,1000,1,1000.0,1000.0,1000,1000,0.0,add\n"
)
TIMES = SUM.format("Operation").replace("Instances", "Count") + (
    "99.0,990000,12,82500.0,82000.0,80000,90000,10.0,[CUDA memcpy HtoD]\n"
    "1.0,10000,4,2500.0,2500.0,2400,2600,10.0,[CUDA memset]\n"
)
SIZES = (
    "Total (MB),Count,Avg (MB),Med (MB),Min (MB),Max (MB),StdDev (MB),Operation\n"
    "25.500,12,2.125,2.125,1.000,4.000,0.100,[CUDA memcpy Host-to-Device]\n"
)
RANGES = SUM.format("Style,Range") + "80.0,800000,4,200000.0,200000.0,190000,210000,10.0,PushPop,:step\n"
CALLS = SUM.format("Name").replace("Instances", "Num Calls") + "100.0,500,2,250.0,250.0,200,300,5.0,{}\n"


def read(tmp_path, text):
    path = tmp_path / "stats.csv"
    path.write_text(text)
    importer = registry.recognize(path)
    assert importer is nsys_csv.IMPORTER
    return importer.read(path)


def told(profile):
    return [(x.kind, x.kernel, x.count, x.duration_ns, x.bytes) for x in profile.launches]


def test_kernels_and_copies_of_two_reports_stay_apart(tmp_path):
    profile = read(tmp_path, KERNELS + "\n" + TIMES + "\n" + SIZES)
    assert told(profile) == [
        (RowKind.SUMMARY, "void mul<(int)4>(float *, int)", 3, 9000, None), (RowKind.SUMMARY, "add", 1, 1000, None),
        (RowKind.COPY, "[CUDA memcpy HtoD]", 12, 990000, 25_500_000), (RowKind.FILL, "[CUDA memset]", 4, 10000, None),
    ]  # fmt: skip
    assert [t.report for t in profile.tables] == ["cuda_gpu_kern_sum", "cuda_gpu_mem_time_sum", "cuda_gpu_mem_size_sum"]
    assert profile.provenance.format == ("nsys stats, cuda_gpu_kern_sum, cuda_gpu_mem_time_sum, cuda_gpu_mem_size_sum")


def test_kernels_are_counted_once_however_many_reports_sum_them(tmp_path):
    both = SUM.format("Category,Operation") + (
        "50.0,9000,3,3000.0,3000.0,2900,3100,10.0,CUDA_KERNEL,mul\n"
        "50.0,700,2,350,350,300,400,1,MEMORY_OPER,[CUDA memset]\n"
        "0.1,5,1,5,5,5,5,0,CUDA_API,cudaFree\n"
    )
    profile = read(tmp_path, both + "\n" + KERNELS)
    assert [x.kernel for x in profile.launches if x.kind is RowKind.SUMMARY] == [
        "void mul<(int)4>(float *, int)",
        "add",
    ]
    alone = read(tmp_path, both)
    assert told(alone) == [
        (RowKind.SUMMARY, "mul", 3, 9000, None), (RowKind.FILL, "[CUDA memset]", 2, 700, None),
    ]  # fmt: skip
    assert alone.tables[0].report == "cuda_api_gpu_sum" and len(alone.tables[0].rows) == 3


def test_sums_by_grid(tmp_path):
    row = '100.0,9000,3,3000.0,3000.0,2900,3100,10.0,"   8    2    1"," 128    1    1",mul\n'
    text = SUM.format("GridXYZ,BlockXYZ,Name") + row
    (launch,) = read(tmp_path, text + KERNELS).launches
    assert (launch.grid, launch.block, launch.count) == ((8, 2, 1), (128, 1, 1), 3)


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (RANGES, "nvtx_sum"),
        ("Time(%),Total Time (ns),Instances,Average,Minimum,Maximum,Range\n100.0,5,1,5.0,5,5,step\n",
         "nvtx_pushpop_sum"),
        (CALLS.format("cudaLaunchKernel"), "cuda_api_sum"),
        (CALLS.format("pthread_cond_wait"), "osrt_sum"),
        ("NVTX Range,Style,PID,TID,NVTX Inst,Kern Inst,Total Time (ns),Avg (ns),Kernel Name\n"
         "step,PushPop,1,2,1,2,9,4.5,mul\n",
         "nvtx_kern_sum"),
        ("Name,Projected Start (ns),Projected Duration (ns),Orig Start (ns),Style,NumGPUOps\nstep,1,2,3,PushPop,4\n",
         "nvtx_gpu_proj_trace"),
        ("Start (ns),End (ns),Duration (ns),DurChild (ns),Name,PID,TID,Lvl,RangeId\n1,9,8,2,:step,53,53,0,3\n",
         "nvtx_pushpop_trace"),
        ("Processing [/tmp/a.sqlite] with [/opt/reports/um_total_sum.py]...\nTotal HtoD (MB),Total Time (ns)\n1.5,3\n",
         "um_total_sum"),
        ("Processing [a.sqlite] with [reports/nvtxppsum.py]... \nTime(%),Total Time (ns),Instances,Range\n100,5,1,x\n",
         "nvtx_pushpop_sum"),
    ],
)  # fmt: skip
def test_reports_that_are_no_kernels_become_tables(tmp_path, db, text, report):
    profile = read(tmp_path, text)
    assert not profile.launches and [t.report for t in profile.tables] == [report]
    summary = import_file(tmp_path / "stats.csv", db)
    assert profiles.load(db, summary.profile).tables == profile.tables
    assert (summary.found, summary.tables, summary.total_ns) == (1, 1, None)


def test_a_tables_numbers_are_in_base_units(tmp_path):
    (table,) = read(tmp_path, RANGES.replace("(ns)", "(us)")).tables
    assert dict(zip(table.columns, table.rows[0], strict=True))["Total Time"] == 8e8
    assert table.columns[-2:] == ("Style", "Range") and table.rows[0][-2:] == ("PushPop", ":step")
    assert set(table.units) == {"%", "ns", ""}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Bytes (MB),Device,Strm,Name",
         "{},{},2,,,,,,,4.000,GPU B (1),7,[CUDA memcpy Host-to-Device]"),
        ("Start(nsec),Duration(nsec),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Bytes(bytes),Device,Strm,Name",
         "{},{},2,,,,,,,4000000,GPU B (1),7,[CUDA memcpy HtoD]"),
        ("Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Bytes (KB),Device,Ctx,GreenCtx,Strm,Name",
         "{},{},2,,,,,,,4000.0,GPU B (1),1,,7,[CUDA memcpy HtoD]"),
    ],
)  # fmt: skip
def test_a_trace_of_every_year(tmp_path, db, header, row):
    kernel = ["90", "10", "1", "8", "1", "1", "128", "1", "1", "", "GPU B (1)", "7", "mul"]
    if "GreenCtx" in header:
        kernel[11:11] = ["1", ""]
    text = f"{header}\n{row.format(100, 5000)}\n{','.join(kernel)}\n"
    profile = read(tmp_path, text)
    copy, mul = profile.launches
    assert (copy.kind, copy.direction, copy.bytes, copy.device, copy.start_ns) == (
        RowKind.COPY,
        "HtoD",
        4_000_000,
        1,
        100,
    )
    assert (mul.kernel, mul.grid, mul.duration_ns) == ("mul", (8, 1, 1), 10) and not profile.tables
    assert profile.provenance.devices == {1: "GPU B"}
    trace = traces.load(db, import_file(tmp_path / "stats.csv", db).profile)
    assert trace.start_ns.tolist() == [90, 100] and trace.bytes.tolist() == [-1, 4_000_000]


def test_a_row_of_a_trace_without_a_grid_is_a_kernel_if_it_is_no_copy(tmp_path):
    header = "Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Strm,Name\n"
    profile = read(tmp_path, header + "100,50,1,,,,,,,7,mul\n200,50,1,,,,,,,7,[CUDA memset]\n")
    assert [(x.kind, x.grid) for x in profile.launches] == [(RowKind.KERNEL, None), (RowKind.FILL, None)]


def test_what_is_printed_between_reports_is_no_row(tmp_path):
    said = "Generating SQLite file a.sqlite\nProcessing [a.sqlite] with [reports/{}.py]... \n"
    skipped = "\n" + said.format("openmp_sum") + "SKIPPED: a.sqlite does not contain OpenMP data.\n"
    profile = read(tmp_path, said.format("cuda_gpu_kern_sum") + KERNELS + skipped + RANGES)
    assert len(profile.launches) == 2 and len(profile.tables) == 2 and not profile.provenance.partial


@pytest.mark.parametrize(
    "text", ["time,count,name\n1,2,x\n", "Time (%)\n5\n", "name,value (ns)\nx,3\n", "latency (ms),rate (MB/s)\n1.5,2\n"]
)
def test_other_tables_are_not_taken_for_one(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    assert registry.recognize(path) is None


@pytest.mark.parametrize(
    ("unit", "base"),
    [("MB", ("byte", 1e6)), ("MiB", ("byte", 2**20)), ("MB/s", ("byte/s", 1e6)), ("bytes", ("byte", 1)),
     ("usec", ("ns", 1e3))],
)  # fmt: skip
def test_units_of_nsys(unit, base):
    assert units.base(unit) == base


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (SUM.format("Source,Name") + "100.0,9000,3,3000.0,3000.0,2900,3100,10.0,mpi,MPI_Barrier\n", "mpi_event_sum"),
        (
            "Processing [a.sqlite] with [/reports/vulkan_gpu_marker_sum.py]... \n"
            + SUM.format("Range") + "100.0,9000,3,3000.0,3000.0,2900,3100,10.0,frame\n",
            "vulkan_gpu_marker_sum",
        ),
        (
            "Virtual Address,HtoD Migration Size (MB),DtoH Migration Size (MB),CPU Page Faults,GPU Page Faults,"
            "Migration Throughput (MB/s)\n0x7f0000000000,4.194,0.000,10,20,100.000\n",
            "um_sum",
        ),
        (
            "Total HtoD Migration Size (MB),Total DtoH Migration Size (MB),Total CPU Page Faults,Total GPU PageFaults,"
            'Minimum Virtual Address,Maximum Virtual Address\n"3,050.439","1,073.676",15360,38007,0x7F9C80000000,'
            "0x7F9D7FF83000\n",
            "um_total_sum",
        ),
    ],
)  # fmt: skip
def test_reports_of_other_things_are_tables_and_no_kernels(tmp_path, text, report):
    profile = read(tmp_path, text)
    assert [table.report for table in profile.tables] == [report]
    assert not profile.launches


CALLED = (
    "API Start (ns),API Dur (ns),Queue Start (ns),Queue Dur (ns),Kernel Start (ns),Kernel Dur (ns),"
    "Total Dur (ns),PID,TID,DevId,API Function,GridXYZ,BlockXYZ,Kernel Name\n"
    "900,50,,,1970,500,1570,1,2,0,cudaLaunchKernel,   8    1    1,  64    1    1,add\n"
    '100,50,150,20,170,1000,1070,1,2,0,cudaLaunchKernel,   64    1    1, 128    1    1,"mul(float *, int)"\n'
)


def test_kernels_with_their_calls_are_a_trace(tmp_path, db):
    """cuda_kern_exec_trace has names, times and sizes: its kernels are those of any trace, and the table is kept."""
    profile = read(tmp_path, CALLED)
    mul, add = profile.launches
    assert (mul.kernel, mul.start_ns, mul.duration_ns, mul.called_ns) == ("mul(float *, int)", 170, 1000, 100)
    assert (mul.grid, mul.block, mul.device, mul.process) == ((64, 1, 1), (128, 1, 1), 0, 1)
    assert (add.kernel, add.start_ns, add.called_ns, add.kind) == ("add", 1970, 900, RowKind.KERNEL)
    assert [table.report for table in profile.tables] == ["cuda_kern_exec_trace"]
    assert "copies and fills that ran between them are not known" in profile.provenance.note
    assert import_file(tmp_path / "stats.csv", db).total_ns == 1500
    assert len(traces.load(db, 1)) == 2


def test_a_sum_of_kernels_with_their_calls(tmp_path):
    """cuda_kern_exec_sum has a mean of each part; a kernel's time is that of its execution, not of its queue."""
    header = "PID,TID,DevId,Count,QCount,TAvg (ns),AAvg (ns),QAvg (ns),KAvg (ns),API Name,Kernel Name\n"
    profile = read(tmp_path, header + "7,8,0,4,2,9000.0,500.0,200.0,2500.5,cudaLaunchKernel,mul(float*)\n")
    (mul,) = profile.launches
    assert (mul.kernel, mul.kind, mul.count, mul.duration_ns) == ("mul(float*)", RowKind.SUMMARY, 4, 10002)
    assert [table.report for table in profile.tables] == ["cuda_kern_exec_sum"]


def test_the_sum_of_kernels_tells_more_than_that_of_their_calls(tmp_path):
    """Two reports of the same kernels in one file: each kernel is counted once."""
    header = "PID,TID,DevId,Count,QCount,TAvg (ns),AAvg (ns),QAvg (ns),KAvg (ns),API Name,Kernel Name\n"
    both = SUM.format("Name") + "100.0,9000,3,3000.0,3000.0,2900,3100,10.0,mul\n\n" + header
    profile = read(tmp_path, both + "7,8,0,3,2,9000.0,500.0,200.0,3000.0,cudaLaunchKernel,mul\n")
    assert [(launch.kernel, launch.count, launch.duration_ns) for launch in profile.launches] == [("mul", 3, 9000)]
