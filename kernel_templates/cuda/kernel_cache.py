"""Compiled kernels kept on disk, by a digest of all that their machine code follows from; loaded without a compiler.

A file: a digest of all that follows; a line of JSON that says how the kernel is launched; the cubin. One that is cut or
damaged counts as absent and is made anew. The folder holds at most MOST_BYTES: files that were not used for longest go
first.
"""

import contextlib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_templates import cache_folder, sources
from kernel_templates.cuda import signature
from kernel_templates.cuda.signature import Signature

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Launch, Target

SUFFIX = ".cubin"
MOST_BYTES = 512_000_000
"""A model takes 1 to 3 MB; a minute of tuning makes some hundred kernels of 10 to 100 kB."""
MOST_WARPS = 32  # of a program: no GPU runs more than 1,024 threads in one
TIDY_EVERY = 256  # files that a process writes between two looks at the folder's size
NOT_CODE = ("TRITON_CACHE_DIR", "TRITON_HOME")
"""Variables of Triton that have no part in the code."""


@dataclass(frozen=True)
class CompiledKernel:
    """name: the kernel's symbol in `cubin`; shared: bytes of dynamic shared memory of a program; warps: of a
    program."""

    name: str
    cubin: bytes
    shared: int
    warps: int


def get(launch: "Launch", target: "Target", capability: int) -> CompiledKernel:
    """The kernel of a launch for a compute capability, e.g. 90: from disk, else compiled and kept there. Raises what
    Triton's compiler raises."""
    kept = path(launch, target, capability)
    return read(kept) or make(launch, target, capability, kept)


def make(launch: "Launch", target: "Target", capability: int, kept: Path) -> CompiledKernel:
    """Compile the kernel of a launch, and keep it."""
    from kernel_templates.cuda.crosscompile import compile_launch

    found = compile_launch(launch, target, capability)
    made = CompiledKernel(found.name, found.cubin, found.shared, found.warps)
    write(kept, made)
    return made


def path(launch: "Launch", target: "Target", capability: int, known: Signature | None = None) -> Path:
    """The file of a launch's kernel, whose name holds everything that its machine code depends on. known: the launch's
    signature, where it was asked for already."""
    found = known or signature.of(launch, target)
    key = launch.kernel.fn, found.key, launch.warps, target, capability, software()
    if key not in _names:  # most launches of a model are alike
        function = launch.kernel.fn
        about = (
            function.__module__, function.__qualname__, sources.of_file(function.__code__.co_filename), found.text,
            launch.warps, target, capability, software(),
        )  # fmt: skip
        _names[key] = hashlib.sha256(repr(about).encode()).hexdigest()[:32]
    return file(_names[key])


_names: dict[tuple, str] = {}


def file(name: str) -> Path:
    return folder() / f"{name}{SUFFIX}"


def folder() -> Path:
    return cache_folder.path() / "cubins"


def read(kept: Path) -> CompiledKernel | None:
    """None where there is none, or not a whole one."""
    try:
        data = kept.read_bytes()
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            return None
        line, _, cubin = body.partition(b"\n")
        about = json.loads(line)
        found = CompiledKernel(about["name"], cubin, about["shared"], about["warps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    counts = _within(found.shared, 0, (1 << 20) - 1) and _within(found.warps, 1, MOST_WARPS)
    if not (isinstance(found.name, str) and counts and cubin):
        return None
    with contextlib.suppress(OSError):
        os.utime(kept)  # the time of last use, by which old files go
    return found


def write(kept: Path, kernel: CompiledKernel) -> None:
    """A folder that cannot be written costs time, nothing else."""
    about = {"name": kernel.name, "shared": kernel.shared, "warps": kernel.warps}
    body = json.dumps(about).encode() + b"\n" + kernel.cubin
    cache_folder.write(kept, hashlib.sha256(body).digest() + body)
    _written.append(kept)
    if len(_written) % TIDY_EVERY == 1:
        tidy()


_written: list[Path] = []
"""By this process."""


def tidy() -> None:
    """Remove the files that were not used for longest, until the folder is within its limit."""
    found = []
    for kept in folder().glob("*"):
        with contextlib.suppress(OSError):  # another process removes, too
            status = kept.stat()
            found.append((status.st_mtime, status.st_size, kept))
    total = sum(size for _, size, _ in found)
    for _, size, kept in sorted(found):
        if total <= MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            kept.unlink()
            total -= size


def _within(number: Any, least: int, most: int) -> bool:
    return type(number) is int and least <= number <= most


@functools.cache
def software() -> str:
    """What machine code follows from besides a launch: the kernels' sources, Triton's version and library, and the
    variables that change what it does."""
    import triton
    from triton._C import libtriton

    variables = {name: value for name, value in os.environ.items() if name.startswith("TRITON_")}
    for name in NOT_CODE:
        variables.pop(name, None)
    variables |= libtriton.get_cache_invalidating_env_vars()
    about = sources.digest(), triton.__version__, _library(libtriton.__file__), sorted(variables.items())
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _library(path: str) -> tuple:
    """What tells one build of Triton's library from another: the digest that its wheel brought, the same on every
    machine, so that kernels compiled on one are found on another; where nothing was recorded, its size and age."""
    with contextlib.suppress(PackageNotFoundError):
        for line in (distribution("triton").read_text("RECORD") or "").splitlines():
            if line.startswith("triton/_C/libtriton.") and "sha256=" in line:
                return (line,)
    library = os.stat(path)
    return library.st_size, library.st_mtime_ns
