"""The reader against honest files, and against everything a broken or hostile file can hold."""

import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from kernel_templates.formats import FORMATS
from model import ggml_types
from model.chat import ChatTemplate
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_cursor import SCALARS
from model.gguf_file import GGUFFile, open_gguf
from model.tokenizer import Tokenizer

HUGE = 1 << 60


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """No case may allocate more than 64 MB, whatever its header announces; one that loops meets the run's timeout."""
    if "real_model" in request.fixturenames:
        yield
        return
    for name in ("tiny_model", "tiny_qwen3"):
        if name in request.fixturenames:
            request.getfixturevalue(name)  # made before counting starts
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def build(
    keys: list[bytes] = (),  # type: ignore[assignment]
    tensors: list[bytes] = (),  # type: ignore[assignment]
    *,
    magic: bytes = b"GGUF",
    version: bytes = struct.pack("<I", 3),
    counts: tuple[int, int] | None = None,
    data: int = 256,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    body = magic + version + struct.pack("<QQ", tensor_count, key_count) + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32 + data)


ALIGNMENT = "general.alignment"
FORGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "other magic": (build(magic=b"GGML"), "not a GGUF file"),
    "short magic": (b"GG", "not a GGUF file"),
    "version 1": (build(version=struct.pack("<I", 1)), "version 1"),
    "version 99": (build(version=struct.pack("<I", 99)), "version 99"),
    "big-endian": (build(version=struct.pack(">I", 3)), "big-endian"),
    "2^60 keys": (build(counts=(0, HUGE)), "metadata keys"),
    "2^60 tensors": (build(counts=(HUGE, 0)), "tensors"),
    "60000 absent keys": (build(counts=(0, 60000), data=0), "ends inside"),
    "60000 absent tensors": (build(counts=(60000, 0), data=0), "ends inside"),
    "key of 2^60 bytes": (build([struct.pack("<Q", HUGE)]), "ends inside"),
    "string of 2^60 bytes": (build([key("a", 8, struct.pack("<Q", HUGE))]), "'a'"),
    "string of 2^64-1 bytes": (build([key("a", 8, struct.pack("<Q", (1 << 64) - 1))]), "'a'"),
    "array of 2^60 bytes": (build([key("a", 9, struct.pack("<IQ", 0, HUGE))]), "'a'"),
    "array of 2^61 doubles": (build([key("a", 9, struct.pack("<IQ", 12, 1 << 61))]), "'a'"),
    "array of 2^60 strings": (build([key("a", 9, struct.pack("<IQ", 8, HUGE))]), "strings"),
    "array of long strings": (build([key("a", 9, struct.pack("<IQQ", 8, 2, HUGE))]), "ends inside"),
    "nested arrays": (build([key("a", 9, struct.pack("<IQ", 9, 1) * 1000)]), "nested"),
    "array of unknown items": (build([key("a", 9, struct.pack("<IQ", 77, 1))]), "unknown type 77"),
    "value of unknown type": (build([key("a", 99, b"")]), "unknown value type 99"),
    "key not UTF-8": (build([key(b"\xff\xfe", 4, bytes(4))]), "UTF-8"),
    "string not UTF-8": (build([key("a", 8, text(b"\xff"))]), "UTF-8"),
    "array string not UTF-8": (build([key("a", 9, struct.pack("<IQ", 8, 1) + text(b"\xff"))]), "UTF-8"),
    "duplicate key": (build([key("a", 4, bytes(4))] * 2), "occurs twice"),
    "duplicate tensor": (build([], [tensor("t", [8])] * 2), "occurs twice"),
    "alignment 0": (build([key(ALIGNMENT, 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 33": (build([key(ALIGNMENT, 4, struct.pack("<I", 33))]), "alignment"),
    "alignment 2^31": (build([key(ALIGNMENT, 4, struct.pack("<I", 1 << 31))]), "alignment"),
    "alignment a string": (build([key(ALIGNMENT, 8, text("32"))]), "alignment"),
    "no dimensions": (build([], [tensor("t", [])]), "0 dimensions"),
    "5 dimensions": (build([], [tensor("t", [1] * 5)]), "5 dimensions"),
    "2^32-1 dimensions": (build([], [text("t") + struct.pack("<I", 0xFFFFFFFF)]), "dimensions"),
    "empty dimension": (build([], [tensor("t", [0, 4])]), "empty dimension"),
    "2^60 elements": (build([], [tensor("t", [HUGE])]), "needs bytes"),
    "product past 2^64": (build([], [tensor("t", [1 << 33, 1 << 33])]), "needs bytes"),
    "product 0 modulo 2^64": (build([], [tensor("t", [1 << 32, 1 << 32])]), "needs bytes"),
    "offset past the end": (build([], [tensor("t", [8], 0, 4096)]), "needs bytes"),
    "offset 2^63": (build([], [tensor("t", [8], 0, 1 << 63)]), "needs bytes"),
    "offset misaligned": (build([], [tensor("t", [8], 0, 7)]), "alignment"),
    "partial block": (build([], [tensor("t", [33], 2)]), "multiple of Q4_0's block"),
    "newline in a name": (build([], [tensor("a\nb\x1b[31m", [HUGE])]), "a\\nb"),
}


def assert_refused(path: Path, expected: str = "") -> None:
    with pytest.raises(ModelError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert expected in message
    assert message.isprintable() and str(path) in message


@pytest.mark.parametrize("name", FORGED)
def test_forged_header_is_one_line(name: str, tmp_path: Path) -> None:
    data, expected = FORGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert_refused(path, expected)


LARGE = 3 << 30
OVERSIZED = {
    "string": key("a", 8, struct.pack("<Q", 2 << 30)),
    "key": struct.pack("<Q", 2 << 30),
    "string in an array": key("a", 9, struct.pack("<IQQ", 8, 3, 2 << 30)),
    "flags": key("a", 9, struct.pack("<IQ", 7, 2 << 30)),
    "numbers": key("a", 9, struct.pack("<IQ", 5, 1 << 29)),
    "empty strings": key("a", 9, struct.pack("<IQ", 8, 1 << 28)),
}


@pytest.mark.parametrize("name", OVERSIZED)
def test_large_file_does_not_make_a_forged_header_large(name: str, tmp_path: Path) -> None:
    """The lengths fit into the file, which is a sparse one of 3 GB, and still no gigabyte is allocated."""
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(build([OVERSIZED[name]], counts=(0, 2)))
        file.truncate(LARGE)
    if name == "numbers":
        assert open_gguf(path).metadata["a"].size == 1 << 29  # a view; the second key, all zeros, is an empty one
    else:
        assert_refused(path)


def test_paths_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(tmp_path / "absent.gguf", "no such file")
    assert_refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a regular file")
    assert_refused(Path("/dev/zero"), "not a regular file")
    with pytest.raises(ModelError, match="cannot open"):
        open_gguf("a\0b")

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)  # chmod would not stop root
    assert_refused(tmp_path / "secret.gguf", "no permission")


def consume(path: Path) -> GGUFFile:
    """Everything that reads a header, as loading a model does."""
    file = open_gguf(path)
    ModelConfig.from_gguf(file)
    Tokenizer.from_metadata(file.metadata)
    ChatTemplate.from_metadata(file.metadata)
    for name in file.tensors:
        file.raw(name)
    return file


def test_truncated_anywhere(tiny_model: Path, tmp_path: Path) -> None:
    data, path = tiny_model.read_bytes(), tmp_path / "cut.gguf"
    places = {int(p) for p in np.linspace(0, len(data) - 1, 60)} | set(range(1, 40)) | {len(data) - 1}
    for place in sorted(places):
        path.write_bytes(data[:place])
        assert_refused(path)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_in_the_header(seed: int, tiny_model: Path, tmp_path: Path) -> None:
    """Each flip either leaves a file that loads or is refused in one line; nothing else is ever raised."""
    original, path = tiny_model.read_bytes(), tmp_path / "flipped.gguf"
    header = min(info.offset for info in open_gguf(tiny_model).tensors.values())
    chooser, refused = random.Random(seed), 0
    for _ in range(150):
        data = bytearray(original)
        # Half of the flips hit the first kilobyte and the tensor table, where the structure is.
        low = chooser.choice([0, 0, header - 1400])
        for _ in range(chooser.choice([1, 1, 3])):
            data[chooser.randrange(low, header)] ^= 1 << chooser.randrange(8)
        path.write_bytes(data)
        try:
            consume(path)
        except ModelError as error:
            refused += 1
            assert str(error).isprintable(), error
    assert refused > 20


def test_values_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "kinds.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {
        "u8": 200,
        "i8": -5,
        "u16": 60000,
        "i16": -300,
        "u32": 1 << 31,
        "i32": -7,
        "u64": 1 << 63,
        "i64": -(1 << 62),
    }
    method = {"u": "add_uint", "i": "add_int"}
    for name, value in numbers.items():
        getattr(writer, method[name[0]] + name[1:])(name, value)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve 文")
    writer.add_array("words", ["a", "", "文"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    metadata = open_gguf(path).metadata
    assert {name: metadata[name] for name in numbers} == numbers
    assert (metadata["f32"], metadata["f64"], metadata["yes"], metadata["text"]) == (0.5, 0.1, True, "naïve 文")
    assert metadata["words"] == ["a", "", "文"]
    assert metadata["ints"].tolist() == [1, -2, 3] and metadata["flags"].tolist() == [True, False]
    with pytest.raises(TypeError):
        metadata["new"] = 1  # type: ignore[index]


def test_type_numbers_are_gguf_s() -> None:
    fixed = {kind.value for kind in gguf.GGUFValueType} - {gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY}
    assert set(SCALARS) == fixed
    for kind, dtype in gguf.GGUFReader.gguf_scalar_to_np.items():
        assert np.dtype(SCALARS[kind]).itemsize == np.dtype(dtype).itemsize


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_where_gguf_finds_them(version: int, tiny_qwen3: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    data = bytearray(tiny_qwen3.read_bytes())
    data[4] = version
    path.write_bytes(data)
    file, peer = open_gguf(path), gguf.GGUFReader(path)
    assert [t.name for t in peer.tensors] == list(file.tensors)
    for theirs in peer.tensors:
        info, raw = file.tensors[theirs.name], file.raw(theirs.name)
        assert info.format_name == theirs.tensor_type.name
        assert info.shape == tuple(reversed(theirs.shape.tolist())) and info.bytes == theirs.n_bytes
        assert raw.shape == (1 if len(info.shape) == 1 else info.shape[0], info.bytes // raw.shape[0])
        assert raw.tobytes() == np.ascontiguousarray(theirs.data).tobytes()
        assert not raw.flags.writeable
    with pytest.raises(ModelError, match="no tensor 'absent'"):
        file.raw("absent")


@pytest.mark.timing
def test_a_real_file_opens_within_a_second(real_model: Path) -> None:
    start = time.perf_counter()
    consume(real_model)
    assert time.perf_counter() - start < 1.0  # 0.3 s on an idle core


def test_a_real_file(real_model: Path) -> None:
    file = consume(real_model)
    assert len(file.tensors) == 272
    assert file.raw("token_embd.weight").shape == (49152, 612)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152


def test_types_have_the_names_that_ggml_gives_them():
    newer = {42: "Q2_0"}  # than the package
    assert {kind.value: kind.name for kind in gguf.GGMLQuantizationType} | newer == ggml_types.NAMES
    assert ggml_types.name(999) == "number 999 (unknown here)"


def test_types_that_are_not_read_are_refused_together() -> None:
    assert ggml_types.refusal([0, 2, 12, 39]) is None
    assert ggml_types.refusal([16, 0, 40, 42, 16]) == (
        "it has tensors of type IQ2_XXS, NVFP4 and Q2_0, which are not supported; get or quantize the model as one of "
        + ", ".join(FORMATS)
    )
    assert ggml_types.refusal([34]).startswith("it has tensors of type TQ1_0, which is not supported; get or quantize")
    for numbers in ([24], [16, 999]):  # quantizing helps against neither
        assert ggml_types.refusal(numbers).endswith("the file is damaged or made for another program")
    assert "and 4292 more, which are" in ggml_types.refusal(range(100, 4400))


def test_a_file_that_is_cut_while_in_use_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    """In a process of its own: touching what is mapped of it would be the end."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model.read_bytes())
    code = (
        "import os, sys\nfrom model.engine import load\nfrom model.errors import ModelError\n"
        "path = sys.argv[1]\nwhole = os.path.getsize(path)\nmodel = load(path)\ntexts = model.generate('ab', 9)\n"
        "next(texts)\nos.truncate(path, whole // 8)\n"
        "for use in (lambda: list(texts), lambda: list(model.generate('ab', 9)), lambda: model.logits([1])):\n"
        "    try: use(); print('not refused')\n    except ModelError as error: print(error)\n"
        "model.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{path}: the file was cut while it was in use; get it again"] * 3


def test_a_file_that_is_cut_while_it_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_model.read_bytes())
    file = open_gguf(path)
    os.truncate(path, file.shards[0].data.size // 2)
    with pytest.raises(ModelError, match="cut while it was in use"):
        for name in file.tensors:
            file.copied(name)
