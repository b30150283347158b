"""The processor this runs on: which instructions, how many cores, how large the caches, and its Device."""

import functools
import os
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import psutil

from kernel_templates.device import Device


@functools.cache
def features() -> frozenset[str]:
    """LLVM's names of what this processor can do, such as "avx512vnni"."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def thread_count() -> int:
    """Threads a kernel runs on: the physical cores this process may use (AUTOTUNE_THREADS overrides)."""
    chosen = os.environ.get("AUTOTUNE_THREADS", "")
    if chosen:
        if not chosen.isdigit() or int(chosen) < 1:
            raise ValueError(f"AUTOTUNE_THREADS is {chosen!r}: give a number of threads, 1 or more")
        if int(chosen) > (cores := os.cpu_count() or 1):
            raise ValueError(f"AUTOTUNE_THREADS is {chosen}: this machine has {cores} processors; give at most as many")
        return int(chosen)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed, _quota() or allowed))


def _quota() -> int | None:
    """Whole processors that the control group of a container grants, if it limits them."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def last_level_cache() -> int:
    """Bytes of the largest cache; 32 MiB where the system does not say."""
    largest = 0
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = size.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        largest = max(largest, int(text.rstrip("KMG")) * unit)
    return largest or 32 << 20


def instruction_tag() -> str:
    """The part of the instruction set that kernels choose by, as one word."""
    order = ("avx512vnni", "avxvnni", "avx512bw", "avx2", "sse2", "neon")
    return "-".join(name for name in order if name in features()) or "baseline"


@functools.cache
def _chip() -> str:
    """The name that py-cpuinfo makes, which is part of every fingerprint. That package starts a Python process and
    takes a second or more, so Linux's own answer is read where it is complete: py-cpuinfo begins with it too."""
    info = _proc_cpuinfo() or _asked_cpuinfo()
    brand = str(info.get("brand_raw") or info.get("arch_string_raw") or "unknown processor")
    numbers = [str(info[k]) for k in ("family", "model", "stepping") if k in info]
    return f"{brand} ({'/'.join(numbers)})" if numbers else brand


def _proc_cpuinfo() -> dict[str, str | int] | None:
    """Name and numbers of an x86 processor from /proc/cpuinfo; None unless all are there and none is 0."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip(), value.strip())
    brand = found.get("model name", "")
    numbers = {
        "family": found.get("cpu family", ""),
        "model": found.get("model", ""),
        "stepping": found.get("stepping", ""),
    }
    if not brand or brand.isdigit() or not all(n.isdecimal() and int(n) > 0 for n in numbers.values()):
        return None
    return {"brand_raw": brand, **{name: int(n) for name, n in numbers.items()}}


def _asked_cpuinfo() -> dict[str, Any]:
    import cpuinfo

    return cpuinfo.get_cpu_info()


def detect() -> Device:
    """This machine's processor as a Device; `units` are the threads that kernels run on."""
    return Device(
        backend="cpu",
        chip=_chip(),
        capability=instruction_tag(),
        units=thread_count(),
        memory_bytes=psutil.virtual_memory().total,
        versions=(("llvmlite", llvmlite.__version__), ("numba", numba.__version__)),
    )
