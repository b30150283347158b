"""Packed weights on disk: mapped on the next start, made anew when anything about them is not as it should be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import model
from kernel_templates import registry
from kernel_templates.cpu import machine, parameters, tiles
from kernel_templates.registry import parse_problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.cpu import weight_cache
from model.cpu.experts import Experts
from model.errors import ModelError
from model.gguf_file import open_gguf

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"
TOKENS = [1, 5, 9, 2]
PROBLEMS = (
    "matvec:rows=40,cols=64,format=Q4_0,activation=int16",
    "head:vocab=64,hidden=64,format=Q8_0,activation=int16",
    "ffn:hidden=64,ffn=96,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16",
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Of packed weights, this test's own; compiled kernels stay where they are for all tests."""
    monkeypatch.setattr(weight_cache, "folder", lambda: tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def own(tiny_model, tmp_path) -> Path:
    """A model file that a test may damage."""
    return Path(shutil.copy(tiny_model, tmp_path / "own.gguf"))


def logits(path: Path) -> np.ndarray:
    engine = model.load(path, context=64)
    try:
        return engine.logits(TOKENS, stepwise=True)
    finally:
        engine.close()


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def packed_in_memory(path: Path, monkeypatch) -> np.ndarray:
    with monkeypatch.context() as without:
        without.setenv("AUTOTUNE_WEIGHT_CACHE_GB", "0")
        return logits(path)


def test_the_second_start_maps_what_the_first_packed(own, folder, monkeypatch):
    first = logits(own)
    (file,) = kept(folder)
    inode = file.stat().st_ino
    monkeypatch.setattr(tiles, "pack", lambda *_: pytest.fail("packed again"))
    np.testing.assert_array_equal(logits(own), first)
    assert [file.stat().st_ino for file in kept(folder)] == [inode]


def test_the_same_logits_as_without(own, folder, monkeypatch):
    assert np.array_equal(packed_in_memory(own, monkeypatch), logits(own))


@pytest.mark.parametrize("name", ["qwen3moe", "gemma4-mixture-small", "gemma4-mixture", "phi3"])
def test_room_is_asked_for_what_is_kept(folder, monkeypatch, name):
    """Also where matrices are rows of one tensor, as gate and up of Gemma 4's experts, or one is read twice, as its
    global keys. The decoder's, then a layer's experts alone."""
    asked, write = [], weight_cache.write
    monkeypatch.setattr(
        weight_cache, "write", lambda file, size, groups: asked.append(size) or write(file, size, groups)
    )
    path = MODELS / f"{name}.gguf"
    model.load(path, context=64).close()
    (file,) = kept(folder)
    assert asked == [pytest.approx(file.stat().st_size, rel=0.1)]
    config = ModelConfig.from_gguf(open_gguf(path))
    if config.most_experts_used:
        experts = Experts(open_gguf(path), config, None, 1)
        experts.open(0)
        experts.close()
        (other,) = set(kept(folder)) - {file}
        assert asked[1:] == [pytest.approx(other.stat().st_size, rel=0.1)]


def test_zero_gigabytes_keep_nothing(own, folder, monkeypatch):
    packed_in_memory(own, monkeypatch)
    assert kept(folder) == []


@pytest.mark.parametrize("at", [0.1, 0.5, 0.999])
def test_a_file_that_is_cut_is_made_anew(own, folder, at):
    wanted = logits(own)
    (file,) = kept(folder)
    whole = file.stat().st_size
    os.truncate(file, int(at * whole))
    np.testing.assert_array_equal(logits(own), wanted)
    assert file.stat().st_size == whole


def rewritten(file: Path, change) -> None:
    """The file with another directory and a digest that fits."""
    data = file.read_bytes()
    magic, start, length, _ = weight_cache.END.unpack(data[-weight_cache.END.size :])
    directory = json.loads(data[start : start + length])
    text = json.dumps(change(directory)).encode()
    end = weight_cache.END.pack(magic, start, len(text), weight_cache.hashlib.sha256(text).digest())
    file.write_bytes(data[:start] + text + end)


def changed_entry(place: int, value):
    def change(directory):
        directory["head"][0][place] = value
        return directory

    return change


def changed_plane(place: int, value):
    def change(directory):
        directory["head"][0][4][0][place] = value
        return directory

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda d: [],
        lambda d: {},
        lambda d: {**d, "head": None},
        lambda d: {**d, "head": []},
        lambda d: {**d, "head": [[1, 2, 3]]},
        changed_entry(0, 1),
        changed_entry(0, -64),
        changed_entry(0, "64"),
        changed_entry(1, 32),
        changed_entry(2, "Q9_9"),
        changed_entry(3, 0),
        changed_entry(4, []),
        changed_plane(0, "object"),
        changed_plane(1, [1 << 40]),
        changed_plane(1, [-1, -1]),
        changed_plane(2, 1 << 60),
        changed_plane(2, -64),
        changed_plane(2, 1),
        changed_plane(2, 0.0),
    ],
)
def test_a_directory_that_names_what_is_not_there_is_not_followed(own, folder, change):
    wanted = logits(own)
    (file,) = kept(folder)
    rewritten(file, change)
    np.testing.assert_array_equal(logits(own), wanted)


def test_a_flipped_bit_in_the_directory_is_noticed(own, folder):
    logits(own)
    (file,) = kept(folder)
    data = bytearray(file.read_bytes())
    data[-weight_cache.END.size - 10] ^= 1
    file.write_bytes(data)
    assert weight_cache.read(file) is None


def test_a_model_changed_in_place_is_packed_again(own, folder):
    """Its size, its inode and even the time of its last change are as they were."""
    before, status = logits(own), own.stat()
    data = bytearray(own.read_bytes())
    data[-4096:] = bytes(4096)
    with own.open("r+b") as file:
        file.write(data)
    os.utime(own, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = logits(own)
    assert not np.array_equal(before, after)
    assert len(kept(folder)) == 2


def test_a_model_changed_while_it_runs_says_so(own, folder):
    engine = model.load(own, context=64)
    os.utime(own, ns=(1, 1))
    with pytest.raises(ModelError, match=r"own\.gguf: the file was changed while it was in use; load it again"):
        list(engine.generate([1, 2], 4))
    engine.close()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_only_time(own, folder):
    folder.mkdir()
    folder.chmod(0o500)
    assert np.isfinite(logits(own)).all()


def test_a_folder_that_cannot_be_made_costs_only_time(own, folder):
    folder.write_text("a file is in its place")
    assert np.isfinite(logits(own)).all()


def test_a_full_disk_leaves_nothing_behind(own, folder, monkeypatch):
    def full(out, groups):
        out.write(bytes(100))
        next(iter(groups))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_cache, "_write", full)
    assert np.isfinite(logits(own)).all()
    assert kept(folder) == []


def test_the_oldest_go_when_the_folder_is_full(folder, monkeypatch):
    folder.mkdir()
    for age, name in enumerate(("new", "old", "oldest")):
        (folder / f"{name}.packed").write_bytes(bytes(1000))
        os.utime(folder / f"{name}.packed", (1e9 - age, 1e9 - age))
    (folder / "lost.123").write_bytes(bytes(1000))
    os.utime(folder / "lost.123", (1e9, 1e9))
    (folder / "written.456").write_bytes(bytes(500))
    monkeypatch.setenv("AUTOTUNE_WEIGHT_CACHE_GB", "2.5e-6")
    weight_cache.tidy(folder / "new.packed")
    assert [file.name for file in kept(folder)] == ["new.packed", "old.packed", "written.456"]
    monkeypatch.setenv("AUTOTUNE_WEIGHT_CACHE_GB", "1e-9")
    weight_cache.tidy(folder / "new.packed")
    assert [file.name for file in kept(folder)] == ["new.packed", "written.456"]


def test_two_write_the_same_file(own, folder):
    """Each under a name of its own until it is whole; who has the first mapped keeps it."""
    first = model.load(own, context=64)
    (file,) = kept(folder)
    inode, before = file.stat().st_ino, first.logits(TOKENS, stepwise=True)
    file.rename(folder / "aside")
    second = logits(own)
    os.unlink(folder / "aside")
    assert file.stat().st_ino != inode
    np.testing.assert_array_equal(first.logits(TOKENS, stepwise=True), before)
    np.testing.assert_array_equal(second, before)
    first.close()


@pytest.mark.parametrize("key", PROBLEMS)
def test_packing_depends_on_nothing_that_the_name_leaves_out(key):
    """`parameters.packing` names every parameter that changes what `pack` gives."""
    problem = parse_problem(key)
    template, space = registry.cpu(problem.op), registry.cpu_space(problem, machine.features())
    matrices = registry.get(problem.op).inputs(problem, 0).weights
    usual = template.pack(problem, space.default, matrices)
    for parameter in space.parameters:
        for value in parameter.values:
            config = Config({**space.default, parameter.name: value})
            if parameters.packing(config) == parameters.packing(space.default):
                made = template.pack(problem, config, matrices)
                for a, b in zip(usual, made, strict=True):
                    assert a.lanes == b.lanes
                    assert all(map(np.array_equal, a.planes, b.planes)), f"{parameter.name}={value}"


def test_a_second_start_imports_nothing_heavy(own, tmp_path):
    """Torch takes 1.3 s to import, and Numba's registries 0.6 s; neither is needed to say a first word."""
    program = (
        "import sys, model; engine = model.load(sys.argv[1], context=64); "
        "list(engine.generate([1, 2, 3, 4, 5, 6, 7, 8], 4)); engine.close(); "
        "print([name for name in ('torch', 'triton', 'scipy.linalg', 'jinja2', 'optuna') if name in sys.modules])"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, own], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
