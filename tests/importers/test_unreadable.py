"""What cannot be imported is named, with the command that helps."""

import pytest

from autotune import UserError
from autotune.importers import registry

CASES = {
    "pointer.ncu-rep": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "pointer.nsys-rep": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "annexed.sqlite": (b"/annex/objects/MD5E-s12--abc.sqlite\n", "git annex get"),
    "run.nsys-rep": (b"\0\1\2NVIDIA", "nsys export --type sqlite"),
    "old.qdrep": (b"\0\1\2", "nsys export --type sqlite"),
    "export.parquet": (b"PAR1\0\0", "nsys export --type sqlite"),
    "download": (b"<!DOCTYPE html>\n<html>", "download the file itself"),
    "archive": (b"PK\x03\x04....", "unpack it"),
    "torch.json": (b'{"schemaVersion": 1, "traceEvents": []}', "Chrome's format"),
    "log.csv": (
        b"==PROF== Connected to process 7\n==ERROR== ERR_NVGPUCTRPERM - The user may not\n",
        '"ERR_NVGPUCTRPERM - The user',
    ),
    "wide.csv": ("==ERROR== Nothing was profiled".encode("utf-16"), '"Nothing was profiled"'),
    "quiet.csv": (b"==PROF== Connected to process 7\n==PROF== Disconnected from process 7\n", "ncu --csv"),
    "skipped.csv": (
        b"Processing [a.sqlite]\nSKIPPED: a.sqlite does not contain CUDA kernel data.\n",
        '"a.sqlite does not',
    ),
    "sums.csv": (
        b'==7== Profiling result:\n"Type","Time(%)","Time","Calls","Avg","Min","Max","Name"\n,%,ms,,us,us,us,\n',
        "CSV of nvprof; record with Nsight Systems",
    ),
    "launches.csv": (b'"Start","Duration","Grid X","Grid Y","Name"\ns,us,,,\n', "CSV of nvprof"),
    "lines.csv": (b'"#","Address","Source","Warp Stall Sampling (All Samples)"\n', "import the report itself"),
    "t1.json": (b'{"General": {}, "ConfigurationSpace": {"TuningParameters": []}}', "T1 description of a space"),
    "ktt.json": (b'{"Metadata": {"KttVersion": "2.1", "TimeUnit": "Microseconds"}, "Results": []}', "after tuning"),
    "log.ndjson": (b"\x28\xb5\x2f\xfd\x60\x80", "zstd -d"),
    "warned.csv": (
        b"==WARNING== No kernels were profiled.\n==WARNING== Profiling of children needs an option.\n",
        '"No kernels were profiled."',
    ),
    "stats.json": (b'[{"Time (%)": 90.0, "Total Time (ns)": 9000, "Name": "mul"}]', "--format csv"),
    "trace.json": (b'[{"Start (ns)": 1, "Duration (ns)": 9, "Name": "mul"}]', "--format csv"),
    "ktt.csv": (b"Kernel name,Computation duration (us),Global size,Local size,b\nmul,10.5,64,32,1\n", "saves JSON"),
    "page.txt": (b"  mul (8, 1, 1)x(128, 1, 1)\n    Section: GPU Speed Of Light Throughput\n", "--page raw"),
    "stats.txt": (b" ** CUDA GPU Kernel Summary (cuda_gpu_kern_sum):\n\n Time (%)  Total Time (ns)\n", "--format csv"),
    "ktt.xml": (b'<?xml version="1.0"?>\n<KernelResults><KernelResult KernelName="k"/>', "as JSON"),
    "old.csv": (b"==7== NVPROF is profiling process 7, command: ./a\n==7== Profiling result:\n", "nsys profile"),
    "notes.txt": (b"hello\n", "these can: Nsight Compute report"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_named(tmp_path, name):
    content, wanted = CASES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        registry.importer_of(path)
    assert wanted in str(told.value) and "\n" not in str(told.value) and str(path) in str(told.value)
    assert registry.recognize(path) is None
