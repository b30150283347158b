"""Packed weights of a model kept on disk, and mapped by every process that runs it: a start without packing, and one
copy in memory however many run.

A file's name is a digest of all that its content follows from: which model file (`GGUFFile.identity`), the code that
packs, the tensors and the rows in a tile of each matrix. In it: the planes, one behind the other; the directory as
JSON; the directory's place and digest. Files are written under another name and renamed when they are whole, so that
none is ever half there; one that is cut or damaged counts as absent and is made anew.

The folder holds at most $AUTOTUNE_WEIGHT_CACHE_GB (20 if not set; 0 keeps nothing): the files that were not used for
longest go first. It may be deleted at any time; who runs from a deleted file keeps it until the end.
"""

import contextlib
import functools
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kernel_templates import cache_folder, memory, sources
from kernel_templates.cpu import compile
from kernel_templates.cpu.tiles import Tiles

DEFAULT_GB = 20.0
MAX_DIRECTORY = 1 << 26  # bytes; one of a model with a thousand matrices has some 300 kB
DTYPES = ("int8", "uint8", "int16", "float16", "int32", "float32")
END = struct.Struct("<8sQQ32s")  # magic, the directory's first byte and its length, its digest
MAGIC = b"atpacked"
ABANDONED_S = 3600.0  # an unfinished file that was not written for so long has lost its writer

Packed = Mapping[str, tuple[Tiles, ...]]


def path(about: object) -> Path:
    """Where weights are kept whose content follows from `about` (by its repr) and from this program's code."""
    key = repr((about, compile.software(), _own_sources()))
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.packed"


def folder() -> Path:
    return cache_folder.path() / "weights"


def limit() -> float:
    """Bytes that the folder may hold."""
    try:
        given = float(os.environ.get("AUTOTUNE_WEIGHT_CACHE_GB") or DEFAULT_GB)
    except ValueError:
        given = DEFAULT_GB
    return max(0.0, given if math.isfinite(given) else DEFAULT_GB) * 1e9


def read(file: Path) -> Packed | None:
    """Map a file, read-only; None if there is none, or not a whole one."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            directory = _directory(opened, size)
            if directory is None:
                return None
            mapped = mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ)
        with contextlib.suppress(OSError):  # the time of last use, by which old files go
            os.utime(file)
    except (OSError, ValueError):
        return None
    for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED"):
        with contextlib.suppress(OSError):  # not every file system has large pages
            mapped.madvise(getattr(mmap, advice, mmap.MADV_NORMAL))
    return _checked(directory, np.frombuffer(mapped, np.uint8))


def write(file: Path, size: int, groups: Iterable[tuple[str, Sequence[Tiles]]]) -> bool:
    """Keep packed weights, by names that `read` gives them back under; whether they could be.

    size: about their bytes in all. Each group is dropped when it is written, so this takes memory for one."""
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if size > limit() or shutil.disk_usage(file.parent).free < 1.2 * size:
            return False
        try:
            with unfinished.open("xb") as out:
                _write(out, groups)
                out.flush()
                os.fsync(out.fileno())  # after a crash of the machine, a file under its final name is whole
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:  # a full disk, a folder that is only read: the next start packs again
        return False
    tidy(file)
    return True


def tidy(newest: Path) -> None:
    """Remove files that were not used for longest until the folder is within its limit, `newest` last of all."""
    found = []
    for file in newest.parent.glob("*.*"):
        with contextlib.suppress(OSError):  # another process removes, too
            status = file.stat()
            if file.suffix != ".packed" and time.time() - status.st_mtime > ABANDONED_S:
                file.unlink()
            elif file != newest:
                found.append((status.st_mtime, status.st_size, file))
            else:
                found.append((math.inf, status.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= limit():
            return
        if file.suffix == ".packed" and file != newest:
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size


def _write(out: BinaryIO, groups: Iterable[tuple[str, Sequence[Tiles]]]) -> None:
    directory: dict[str, list] = {}
    for name, matrices in groups:
        entries = directory.setdefault(name, [])
        for tiles in matrices:
            planes = []
            for plane in tiles.planes:
                out.write(bytes(-out.tell() % memory.ALIGN))
                planes.append([plane.dtype.name, list(plane.shape), out.tell()])
                out.write(plane.data)
            entries.append([tiles.rows, tiles.cols, tiles.format, tiles.lanes, planes])
    start, text = out.tell(), json.dumps(directory).encode()
    out.write(text + END.pack(MAGIC, start, len(text), hashlib.sha256(text).digest()))


def _directory(file: BinaryIO, size: int) -> Any:
    """The directory at a file's end; None where there is not a whole one."""
    if size < END.size:
        return None
    file.seek(size - END.size)
    magic, start, length, digest = END.unpack(file.read(END.size))
    if magic != MAGIC or length > MAX_DIRECTORY or start + length + END.size != size:
        return None
    file.seek(start)
    text = file.read(length)
    return json.loads(text) if hashlib.sha256(text).digest() == digest else None


def _checked(directory: Any, data: np.ndarray) -> Packed | None:
    """The matrices that a directory names, each inside the file; None if it names anything else."""
    try:
        return {
            name: tuple(_tiles(entry, data) for entry in entries) for name, entries in directory.items()
        }  # fmt: skip
    except (AttributeError, TypeError, ValueError, KeyError):
        return None


def _tiles(entry: Any, data: np.ndarray) -> Tiles:
    rows, cols, format_name, lanes, planes = entry
    made = []
    for dtype, shape, start in planes:
        if dtype not in DTYPES or not all(type(n) is int and n > 0 for n in shape) or type(start) is not int:
            raise ValueError(f"{dtype} {shape} at {start} is no plane")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if start < 0 or start % memory.ALIGN or start + size > len(data):
            raise ValueError(f"a plane of {size} bytes at {start} is not in the file")
        made.append(data[start : start + size].view(dtype).reshape(shape))
    if not all(type(n) is int and n > 0 for n in (rows, cols, lanes)):
        raise ValueError(f"{rows} x {cols} in tiles of {lanes} is no matrix")
    found = Tiles(rows, cols, format_name, lanes, tuple(made))
    if [plane.nbytes for plane in made] != found.plane_sizes():
        raise ValueError(f"the planes of {rows} x {cols} in {format_name} have other sizes")
    return found


@functools.cache
def _own_sources() -> str:
    """A hash over the engine's code, which decides what is packed how."""
    return sources.of_folder(Path(__file__).parent.parent)
