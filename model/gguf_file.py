"""Read a GGUF file: metadata and a table of tensors, with the weights left in place behind a memory map.

A model in shards (`llama-gguf-split`: NAME-00001-of-00003.gguf, the metadata in the first) is read whole from any one.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kernel_templates.formats import FORMATS, from_ggml
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
    start of the file, or of shard number `shard`; `bytes` is the whole tensor's size."""

    name: str
    shape: tuple[int, ...]
    format_name: str
    offset: int
    bytes: int
    shard: int = 0

    @property
    def rows(self) -> int:
        """A 1-D tensor is one row; leading dimensions of a 3-D tensor are folded into the rows."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class Shard:
    """One file on disk, or all there is of a model. data: uint8, its mapping."""

    path: Path
    data: np.ndarray = field(repr=False, compare=False)
    source: io.FileIO = field(repr=False, compare=False)
    header: int = field(repr=False, compare=False)
    """Bytes before the first tensor's."""
    status: os.stat_result = field(repr=False, compare=False)
    """Of the file when it was opened."""

    def check_whole(self) -> None:
        """Raise ModelError when the file is shorter than it was when opened, so that what is mapped of it cannot be
        read, or has been written to."""
        now = os.fstat(self.source.fileno())
        if now.st_size < len(self.data):
            raise self.cut()
        if now.st_mtime_ns != self.status.st_mtime_ns:
            raise ModelError(f"{self.path}: the file was changed while it was in use; load it again")

    def cut(self) -> ModelError:
        return ModelError(f"{self.path}: the file was cut while it was in use; get it again")


@dataclass(frozen=True)
class GGUFFile:
    """An open model file. `metadata` holds Python values, with arrays of strings as list[str] and other arrays as
    read-only numpy views; `tensors` is in file order. `unread_types`: ggml's numbers of types that no format here
    reads; tensors of these types are not among `tensors`. Refusing them is for those who know what a model needs."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    shards: tuple[Shard, ...] = field(repr=False, compare=False)
    unread_types: frozenset[int] = frozenset()

    def raw(self, name: str) -> np.ndarray:
        """The stored bytes of a tensor, uint8 [rows, row_bytes], read-only and still on disk until touched.

        Raises ModelError when the file has no tensor of that name.
        """
        info = self._info(name)
        data = self.shards[info.shard].data
        return data[info.offset : info.offset + info.bytes].reshape(info.rows, info.bytes // info.rows)

    def copied(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """As `raw`, or some rows of it, but read into memory of its own. Raises ModelError also when the file has been
        cut meanwhile, where touching the mapping would end the process."""
        info = self._info(name)
        shard, row_bytes = self.shards[info.shard], info.bytes // info.rows
        first, end, _ = rows.indices(info.rows)
        out, at = np.empty((end - first) * row_bytes, np.uint8), 0
        while at < len(out):
            count = os.preadv(shard.source.fileno(), [out.data[at:]], info.offset + first * row_bytes + at)
            if count == 0:
                raise shard.cut()
            at += count
        return out.reshape(end - first, row_bytes)

    def check_whole(self) -> None:
        """As of `Shard`, for each."""
        for shard in self.shards:
            shard.check_whole()

    def identity(self) -> tuple:
        """Which files with which content these are: place on the disk, size, the times of the last change (that of the
        inode included, which nobody can set back), and `digest`."""
        files = (shard.status for shard in self.shards)
        places = tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in files)
        return places, self.digest()

    def digest(self) -> str:
        """Of each header and of a page in the middle of each tensor, by which a model is told from others wherever it
        lies."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(os.pread(shard.source.fileno(), shard.header, 0))
        for info in self.tensors.values():
            half = info.bytes // 2
            handle = self.shards[info.shard].source.fileno()
            digest.update(os.pread(handle, min(SAMPLE, info.bytes - half), info.offset + half))
        return digest.hexdigest()

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
    file = _open(Path(path))
    count = _split(file, "count")
    return file if count < 2 else _joined(file, count)


def _open(path: Path) -> GGUFFile:
    try:
        return _read(path)
    except ModelError as error:
        raise _named(path, error) from None


def _named(path: Path, error: Exception | str) -> ModelError:
    return ModelError(f"{quoted(path, 400)[1:-1]}: {error}")


def _joined(file: GGUFFile, count: int) -> GGUFFile:
    """All shards of the model that `file` is one of: metadata of the first, tensors of each."""
    own = _split(file, "no")
    ending = _shard_ending(own, count)
    if own >= count or not file.path.name.endswith(ending):
        raise _named(
            file.path,
            f"this is shard {own + 1} of {count}, but its name does not end in {ending}, by which the others are found;"
            " give the files their names back",
        )
    opened = []
    for index in range(count):
        path = file.path.with_name(file.path.name.removesuffix(ending) + _shard_ending(index, count))
        if index != own and not path.exists():
            raise _named(file.path, f"this is shard {own + 1} of {count}, and {path.name} is missing; put it beside it")
        shard = file if index == own else _open(path)
        if (_split(shard, "no"), _split(shard, "count")) != (index, count):
            raise _named(path, f"this is not shard {index + 1} of {count}; get it again")
        opened.append(shard)
    tensors: dict[str, TensorInfo] = {}
    for index, shard in enumerate(opened):
        if twice := tensors.keys() & shard.tensors.keys():
            raise _named(shard.path, f"tensor {quoted(min(twice))} is in another shard too; get the files again")
        tensors |= {name: replace(info, shard=index) for name, info in shard.tensors.items()}
    unread = frozenset().union(*(shard.unread_types for shard in opened))
    if not unread and len(tensors) != (announced := _split(file, "tensors.count", len(tensors))):
        raise _named(
            file.path, f"the shards hold {len(tensors)} tensors, not the {announced} announced; get them again"
        )
    shards = tuple(part for shard in opened for part in shard.shards)
    whole = replace(opened[0], path=file.path, tensors=MappingProxyType(tensors), shards=shards)
    return replace(whole, unread_types=unread)


def _shard_ending(index: int, count: int) -> str:
    return f"-{index + 1:05d}-of-{count:05d}.gguf"


def _split(file: GGUFFile, key: str, default: int = 0) -> int:
    """What `llama-gguf-split` writes into each shard; the default where a model is in one file."""
    value = file.metadata.get(f"split.{key}", default)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise _named(file.path, f"metadata key 'split.{key}' is {quoted(value)}, not a count; get the file again")
    return value


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
    types = {kind for _, kind, _ in entries.values()}
    unread = frozenset(types - {fmt.ggml_type for fmt in FORMATS.values()})
    known = {name: entry for name, entry in entries.items() if entry[1] not in unread}
    tensors = {name: _place(name, *entry, start, alignment, size) for name, entry in known.items()}
    shard = Shard(path, np.frombuffer(data, np.uint8), source, start, status)
    return GGUFFile(path, version, alignment, MappingProxyType(metadata), MappingProxyType(tensors), (shard,), unread)


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
    shown, layout = f"tensor {quoted(name)}", from_ggml(kind)
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
