"""Names files that cannot be imported, and the command that makes one that can; found by content where it tells."""

import re
from dataclasses import dataclass
from pathlib import Path

from autotune import UserError

_SQLITE = "export it with nsys export --type sqlite"
_NSYS = "record with Nsight Systems (nsys profile) instead"
# The first bytes of files that are no text.
_BYTES = (
    (b"PK\x03\x04", "is a zip archive", "unpack it and import what is in it"),
    (b"PAR1", "is a Parquet file", f"if Nsight Systems made it, {_SQLITE}"),
    (b"ARROW1", "is an Arrow file", f"if Nsight Systems made it, {_SQLITE}"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "unpack it with zstd -d"),
    (b"\x89HDF", "is an HDF5 file", f"if Nsight Systems made it, {_SQLITE}"),
)
_ENDINGS = (
    ((".nsys-rep", ".qdrep", ".qdstrm"), "is Nsight Systems' own report", _SQLITE),
    ((".nvvp", ".nvprof"), "is a profile of nvprof", _NSYS),
)
_TEXT = (
    ("version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file itself", "git lfs pull brings it"),
    ("/annex/objects/", "is a git-annex pointer, not the file itself", "git annex get brings it"),
    ("<!doctype html", "is a web page", "download the file itself (on GitHub: Raw)"),
    ("<html", "is a web page", "download the file itself (on GitHub: Raw)"),
    ('"traceevents"', "is a trace of Chrome's format, as PyTorch's profiler writes it", "record with Nsight Systems"),
    ("nvprof is profiling process", "is what nvprof printed", _NSYS),
    ('"type","time(%)","time","calls"', "is CSV of nvprof", _NSYS),
    ('"start","duration","grid x"', "is CSV of nvprof", _NSYS),
    ('"warp stall sampling (all', "is Nsight Compute's source page", "import the report itself, which has it all"),
    ('"sampling data (all', "is Nsight Compute's source page", "import the report itself, which has it all"),
    ('"configurationspace"', "is a T1 description of a space, without results", "import what was measured in it (T4)"),
    ('"kttversion"', "has no results of the Kernel Tuning Toolkit", "save them after tuning"),
    ("<kernelresult", "is the Kernel Tuning Toolkit's XML", "save the results as JSON"),
    (
        "kernel name,computation duration",
        "is CSV of the Kernel Tuning Toolkit 1",
        "tune with version 2, which saves JSON",
    ),
    ('"total time (ns)":', "is JSON of nsys stats", "print it again with --format csv"),
    ('"duration (ns)":', "is JSON of nsys stats", "print it again with --format csv"),
)
_ERROR, _SKIPPED = re.compile(r"==ERROR==\s*(.*)"), re.compile(r"SKIPPED:\s*(.*)")
_WARNING = re.compile(r"==WARNING==\s*(.*)")
_LOG = re.compile(r"==(?:PROF|ERROR|WARNING|LOG)==")
_PRINTED_NCU = re.compile(r"^\s*Section: \w", re.MULTILINE)
_PRINTED_NSYS = re.compile(r"^\s*\*\* .*\(\w+\):\s*$|^\s*Time ?\(%\)\s{2,}Total Time", re.MULTILINE)
_ADVICE = {
    "ERR_NVGPUCTRPERM": "let this user read the GPU's counters (NVIDIA's page on ERR_NVGPUCTRPERM says how)",
    "ERR_NVGPUCTR_IN_USE": "end the other profiler that uses the GPU's counters",
}
_CUDA = "record with nsys profile --trace cuda,nvtx"


@dataclass(frozen=True)
class Unreadable:
    """what: what the file is; advice: what to do, each a part of one sentence."""

    what: str
    advice: str

    def error(self, path: Path) -> UserError:
        return UserError(f"{path} {self.what}; {self.advice}")


def recognized(path: Path, head: bytes) -> Unreadable | None:
    """What a file of no readable format is, by its first bytes (`files.head_of`) and its name; None if unknown."""
    for beginning, what, advice in _BYTES:
        if head.startswith(beginning):
            return Unreadable(what, advice)
    for endings, what, advice in _ENDINGS:
        if path.name.lower().endswith(endings) and not head.startswith(b"version https://"):
            return Unreadable(what, advice)
    text = head.decode("utf-8", "replace")
    lowered = text[:4096].lower()
    for sign, what, advice in _TEXT:
        if sign in lowered:
            return Unreadable(what, advice)
    return _said(text)


def _said(text: str) -> Unreadable | None:
    """What a profiler said instead of a table."""
    if found := _ERROR.search(text):
        advice = next((advice for sign, advice in _ADVICE.items() if sign in text), "profile again")
        return Unreadable(f'has no table, only the profiler\'s error: "{found[1].strip()[:200]}"', advice)
    if found := _SKIPPED.search(text):
        return Unreadable(f'has no table: nsys stats says "{found[1].strip()[:200]}"', _CUDA)
    if _PRINTED_NCU.search(text):
        return Unreadable(
            "is a page that Nsight Compute printed for people", "print it again with ncu --csv --page raw"
        )
    if _PRINTED_NSYS.search(text):
        return Unreadable("has tables that nsys stats printed for people", "print them again with --format csv")
    if found := _WARNING.search(text):
        return Unreadable(f'has no table, only the profiler\'s warning: "{found[1].strip()[:200]}"', "profile again")
    if _LOG.search(text):
        return Unreadable("has no table, only what Nsight Compute says while it runs", "profile again with ncu --csv")
    return None
