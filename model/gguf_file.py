"""Read a GGUF file: metadata and a table of tensors, with the weights left in place behind a memory map.

The file is untrusted. Every length, count and offset is compared with the bytes that are really there before anything
is allocated or looped over, so a forged header costs no more than the file's own size and fails with a ModelError.

Why not gguf.GGUFReader: on the 98 MB SmolLM2 file (49152 tokens) version 0.19 takes 5.0 s, because it makes several
arrays for every string, where this reader takes 0.05 to 0.1 s; and a 113-byte file that announces an array of 2^40
bytes keeps it looping while its memory grows (260 MB after 3 s), which no guard around it can stop.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It knows nothing about architectures or tokenizers.
"""

import hashlib
import io
import math
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kernel_templates.formats import from_ggml
from model import ggml_types
from model.errors import ModelError, quoted
from model.gguf_cursor import Cursor

# Far above any real model, far below what would hurt.
MAX_ENTRIES = 1 << 16  # keys, and tensors
MAX_ALIGNMENT = 1 << 16
MAX_DIMS = 4
SAMPLE = 4096  # bytes of each tensor that tell one file from another


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `shape` is in numpy order (rows, columns), the reverse of ggml's; `offset` counts from the
    start of the file; `bytes` is the whole tensor's size."""

    name: str
    shape: tuple[int, ...]
    format_name: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GGUFFile:
    """An open model file. `metadata` holds Python values, with arrays of strings as list[str] and other arrays as
    read-only numpy views; `tensors` is in file order."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    data: np.ndarray = field(repr=False, compare=False)
    source: io.FileIO = field(repr=False, compare=False)
    header: int = field(repr=False, compare=False)
    """Bytes before the first tensor's."""
    status: os.stat_result = field(repr=False, compare=False)
    """Of the file when it was opened."""

    def raw(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor, uint8 [rows, row_bytes], read-only and still on disk until touched.

        A 1-D tensor is one row; leading dimensions of a 3-D tensor are folded into the rows.
        Raises ModelError when the file has no tensor of that name.
        """
        info = self._info(name)
        rows = math.prod(info.shape[:-1])
        return self.data[info.offset : info.offset + info.bytes].reshape(rows, info.bytes // rows)

    def copied(self, name: str) -> np.ndarray:
        """As `raw`, but read into memory of its own. Raises ModelError also when the file has been cut meanwhile, where
        touching the mapping would end the process."""
        info = self._info(name)
        out, at = np.empty(info.bytes, np.uint8), 0
        while at < info.bytes:
            count = os.preadv(self.source.fileno(), [out.data[at:]], info.offset + at)
            if count == 0:
                raise self._cut()
            at += count
        rows = math.prod(info.shape[:-1])
        return out.reshape(rows, info.bytes // rows)

    def check_whole(self) -> None:
        """Raise ModelError when the file is shorter than it was when opened, so that what is mapped of it cannot be
        read, or has been written to."""
        now = os.fstat(self.source.fileno())
        if now.st_size < len(self.data):
            raise self._cut()
        if now.st_mtime_ns != self.status.st_mtime_ns:
            raise ModelError(f"{self.path}: the file was changed while it was in use; load it again")

    def identity(self) -> tuple:
        """Which file with which content this is: its place on the disk, its size, the times of its last change (that
        of the inode included, which nobody can set back), and a digest of its header and of a page in the middle of
        each tensor."""
        digest, handle = hashlib.sha256(), self.source.fileno()
        digest.update(os.pread(handle, self.header, 0))
        for info in self.tensors.values():
            half = info.bytes // 2
            digest.update(os.pread(handle, min(SAMPLE, info.bytes - half), info.offset + half))
        s = self.status
        return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, digest.hexdigest()

    def _cut(self) -> ModelError:
        return ModelError(f"{self.path}: the file was cut while it was in use; get it again")

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise ModelError(
                f"{self.path}: no tensor {quoted(name)}; the file is incomplete or of another architecture"
            )
        return self.tensors[name]


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a GGUF file (version 2 or 3, little-endian) without reading its weights.

    Raises ModelError, one line that names the file, for anything that cannot be read safely.
    """
    path = Path(path)
    try:
        return _read(path)
    except ModelError as error:
        raise ModelError(f"{quoted(path, 400)[1:-1]}: {error}") from None


def _read(path: Path) -> GGUFFile:
    data, status, source = _map(path)
    size = status.st_size
    cursor = Cursor(data, size)
    if data[:4] != b"GGUF":
        raise ModelError("this is not a GGUF file (its first four bytes are not 'GGUF'); give a .gguf model")
    cursor.at = 4
    version = cursor.number("I", "the version")
    if version & 0xFFFF == 0:
        raise ModelError("this is a big-endian GGUF file; convert it to little-endian with gguf-convert-endian")
    if version not in (2, 3):
        raise ModelError(f"GGUF version {version} is not supported (2 and 3 are); convert the model again")
    tensor_count, key_count = cursor.number("Q", "the tensor count"), cursor.number("Q", "the key count")
    for count, what in ((tensor_count, "tensors"), (key_count, "metadata keys")):
        if count > MAX_ENTRIES:
            raise ModelError(f"the header announces {count} {what} (at most {MAX_ENTRIES} are accepted); it is damaged")
    metadata = _read_metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ModelError(f"general.alignment is {quoted(alignment)}, not a power of two up to {MAX_ALIGNMENT}")
    entries = _read_tensor_entries(cursor, tensor_count)
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: _place(name, *entry, start, alignment, size) for name, entry in entries.items()}
    array = np.frombuffer(data, np.uint8)
    kept = MappingProxyType(metadata), MappingProxyType(tensors)
    return GGUFFile(path, version, alignment, *kept, array, source, start, status)


def _map(path: Path) -> tuple[mmap.mmap, os.stat_result, io.FileIO]:
    """The file mapped read-only, its status, the file itself. Anything but a regular file is refused before it
    blocks."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise ModelError("there is no such file; check the path") from None
    except IsADirectoryError:
        raise ModelError("this is a directory; give the .gguf file in it") from None
    except PermissionError:
        raise ModelError("no permission to read this file; check its mode and owner") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot open this file ({quoted(error)}); check the path") from None
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise ModelError("this is a directory; give the .gguf file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("this is not a regular file; give a .gguf model")
        if status.st_size == 0:
            raise ModelError("the file is empty; get it again")
        return mmap.mmap(handle, status.st_size, access=mmap.ACCESS_READ), status, io.FileIO(os.dup(handle))
    except OSError as error:
        raise ModelError(f"cannot map this file ({quoted(error)}); check the disk it is on") from None
    finally:
        os.close(handle)


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"the name of metadata key {index}")
        if key in metadata:
            raise ModelError(f"metadata key {quoted(key)} occurs twice; the file is damaged, get it again")
        what = f"the value of metadata key {quoted(key)}"
        metadata[key] = cursor.value(cursor.number("I", what), what)
    return metadata


def _read_tensor_entries(cursor: Cursor, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """name -> (ggml dimensions, type number, offset from the start of the data)."""
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for index in range(count):
        name = cursor.string(f"the name of tensor {index}")
        what = f"the description of tensor {quoted(name)}"
        if name in entries:
            raise ModelError(f"tensor {quoted(name)} occurs twice; the file is damaged, get it again")
        dims = cursor.number("I", what)
        if not 1 <= dims <= MAX_DIMS:
            raise ModelError(f"tensor {quoted(name)} has {dims} dimensions, not 1 to {MAX_DIMS}; the file is damaged")
        shape = tuple(cursor.number("Q", what) for _ in range(dims))
        entries[name] = shape, cursor.number("I", what), cursor.number("Q", what)
    return entries


def _place(
    name: str, dims: tuple[int, ...], kind: int, offset: int, start: int, alignment: int, size: int
) -> TensorInfo:
    """Check one entry against the format and the file's size, and turn it into a TensorInfo."""
    shown = f"tensor {quoted(name)}"
    try:
        layout = from_ggml(kind)
    except ValueError:
        raise ModelError(
            f"{shown} has type {ggml_types.name(kind)}, which is not supported; requantize the model"
        ) from None
    if min(dims) == 0:
        raise ModelError(f"{shown} has an empty dimension in its shape {list(dims)}; the file is damaged, get it again")
    if dims[0] % layout.block:
        raise ModelError(
            f"{shown} has rows of {dims[0]} values, not a multiple of {layout.name}'s block {layout.block}"
        )
    # Python integers do not overflow, so a shape of 2^60 elements is just a number larger than the file.
    total = math.prod(dims[1:]) * (dims[0] // layout.block) * layout.block_bytes
    if offset % alignment:
        raise ModelError(
            f"{shown} starts at offset {offset}, not a multiple of the alignment {alignment}; damaged file"
        )
    if start + offset + total > size:
        raise ModelError(
            f"{shown} needs bytes {start + offset} to {start + offset + total}, but the file has {size}; "
            "it is truncated or damaged, get it again"
        )
    return TensorInfo(name, tuple(reversed(dims)), layout.name, start + offset, total)
