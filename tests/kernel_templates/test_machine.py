"""What a machine says about itself: threads, instructions, and a fingerprint that changes when it should."""

from dataclasses import replace

import psutil
import pytest

from kernel_templates.cpu import machine
from kernel_templates.device import Device

DEVICE = Device("cpu", "Some Processor (6/143/8)", "avx512vnni-avx2", 2, 16 << 30, (("numba", "0.61.0"),))


@pytest.mark.parametrize("text", ["1", "3", "64"])
def test_the_environment_chooses_the_threads(monkeypatch, text):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setenv("AUTOTUNE_THREADS", text)
    assert machine.thread_count() == int(text)
    assert machine.detect().units == int(text)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_bad_number_of_threads_is_refused(monkeypatch, text):
    monkeypatch.setenv("AUTOTUNE_THREADS", text)
    with pytest.raises(ValueError, match=r"AUTOTUNE_THREADS is .*: give a number of threads, 1 or more"):
        machine.thread_count()


def test_more_threads_than_processors_are_refused(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_THREADS", "999")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    with pytest.raises(ValueError, match="AUTOTUNE_THREADS is 999: this machine has 2 processors"):
        machine.thread_count()


@pytest.mark.parametrize("text", [None, ""])
def test_threads_are_physical_cores_unless_told(monkeypatch, text):
    monkeypatch.delenv("AUTOTUNE_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("AUTOTUNE_THREADS", text)
    assert 1 <= machine.thread_count() <= (psutil.cpu_count() or 1)


@pytest.mark.parametrize(
    ("features", "tag"),
    [
        ({"avx512vnni", "avx512bw", "avx2", "sse2", "fma"}, "avx512vnni-avx512bw-avx2-sse2"),
        ({"avx2", "avxvnni"}, "avxvnni-avx2"),
        ({"neon", "dotprod"}, "neon"),
        ({"fma"}, "baseline"),
    ],
)
def test_the_instruction_tag_names_what_kernels_choose_by(monkeypatch, features, tag):
    monkeypatch.setattr(machine, "features", lambda: frozenset(features))
    assert machine.instruction_tag() == tag


@pytest.fixture
def system(monkeypatch, tmp_path):
    """system(path, text) writes a file of /sys as this process shall see it."""
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / path.lstrip("/"))

    def write(path, text):
        (tmp_path / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.lstrip("/")).write_text(text)

    return write


@pytest.mark.parametrize(
    ("sizes", "largest"), [(("32K\n", "1024K\n", "36M\n"), 36 << 20), (("1G\n", "2M\n"), 1 << 30), ((), 32 << 20)]
)
def test_the_last_level_cache_is_the_largest(system, sizes, largest):
    for index, size in enumerate(sizes):
        system(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size", size)
    assert machine.last_level_cache() == largest


@pytest.mark.parametrize(
    ("quota", "threads"), [("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_container_grants_whole_processors(system, monkeypatch, quota, threads):
    monkeypatch.delenv("AUTOTUNE_THREADS", raising=False)
    without = machine.thread_count()
    system("/sys/fs/cgroup/cpu.max", quota)
    assert machine.thread_count() == (threads or without)


X86 = "processor\t: 0\nvendor_id\t: X\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Some Processor\nstepping\t: {}\n"


def test_the_name_is_read_without_another_process(system):
    system("/proc/cpuinfo", X86.format(8))
    assert machine._proc_cpuinfo() == {"brand_raw": "Some Processor", "family": 6, "model": 143, "stepping": 8}


@pytest.mark.parametrize("text", ["", X86.format(0), X86.format("unknown"), "Processor : ARMv7\nCPU part : 0xd0c\n"])
def test_an_incomplete_answer_is_left_to_py_cpuinfo(system, text):
    system("/proc/cpuinfo", text)
    assert machine._proc_cpuinfo() is None


def test_the_name_is_the_one_in_databases():
    """py-cpuinfo's: a different name orphans every winner."""
    mine = machine._proc_cpuinfo()
    if mine is None:
        pytest.skip("this system's /proc/cpuinfo says too little")
    asked = machine._asked_cpuinfo()
    assert mine == {name: asked[name] for name in mine}


def test_this_machine_is_described_the_same_way_twice():
    one, other = machine.detect(), machine.detect()
    assert one == other and one.fingerprint == other.fingerprint
    assert one.backend == "cpu" and one.chip and one.units >= 1 and one.memory_bytes > 1 << 28
    assert list(one.versions) == sorted(one.versions)


def test_a_fingerprint_stays_as_databases_hold_it():
    """A fingerprint that comes out different orphans every winner stored under the old one."""
    assert DEVICE.fingerprint == "d83109835edf"
    assert DEVICE.chip_key == "cpu/Some Processor (6/143/8)/avx512vnni-avx2/2"


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "cuda"},
        {"chip": "Another"},
        {"capability": "avx2"},
        {"units": 4},
        {"memory_bytes": 32 << 30},
        {"versions": (("numba", "0.62.0"),)},
        {"versions": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_the_fingerprint(change):
    other = replace(DEVICE, **change)
    assert other.fingerprint != DEVICE.fingerprint
    assert (other.chip_key == DEVICE.chip_key) == (set(change) <= {"memory_bytes", "versions"})
