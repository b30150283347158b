"""Models in shards, as gguf's own writer splits them: whole from any shard, refused by name where one is missing."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

import model
from model.errors import ModelError
from model.gguf_file import open_gguf


@pytest.fixture
def copies(shards: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copy(path, tmp_path)) for path in shards]


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert all(word in message for word in words) and message.isprintable(), message


def test_the_model_is_whole_from_any_shard(tiny_model: Path, shards: list[Path]) -> None:
    whole = open_gguf(tiny_model)
    for path in shards:
        file = open_gguf(path)
        assert file.path == path and list(file.tensors) == list(whole.tensors)
        assert {**whole.metadata, **file.metadata}.keys() == file.metadata.keys()
        for name in whole.tensors:
            np.testing.assert_array_equal(file.raw(name), whole.raw(name))
            np.testing.assert_array_equal(file.copied(name, slice(1, 3)), whole.raw(name)[1:3])


def test_it_computes_what_the_one_file_does(tiny_model: Path, shards: list[Path]) -> None:
    found = []
    for path in (tiny_model, shards[1]):
        with closing(model.load(path, threads=1)) as engine:
            found.append(engine.logits([3, 7, 9, 2, 5]))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_named(copies: list[Path], missing: int) -> None:
    copies[missing].unlink()
    other = copies[(missing + 1) % 3]
    refused(other, str(other), f"of 3, and {copies[missing].name} is missing; put it beside it")


def test_another_name_is_refused_with_the_right_one(copies: list[Path], tmp_path: Path) -> None:
    refused(copies[1].rename(tmp_path / "mine.gguf"), "shard 2 of 3", "-00002-of-00003.gguf", "names back")


def test_a_shard_under_another_s_name(copies: list[Path]) -> None:
    shutil.copy(copies[0], copies[2])
    refused(copies[0], copies[2].name, "not shard 3 of 3")


def test_a_tensor_in_two_shards(copies: list[Path]) -> None:
    name = next(tensor.name for tensor in gguf.GGUFReader(copies[2]).tensors if tensor.name.startswith("blk.1."))
    twin = name.replace("blk.1.", "blk.0.")
    copies[2].write_bytes(copies[2].read_bytes().replace(name.encode(), twin.encode()))
    refused(copies[0], copies[2].name, f"'{twin}' is in another shard too")


def test_a_shard_that_is_damaged_is_named(copies: list[Path]) -> None:
    os.truncate(copies[1], 100)
    refused(copies[0], copies[1].name)


def test_a_shard_that_is_cut_while_in_use(copies: list[Path]) -> None:
    file = open_gguf(copies[0])
    os.truncate(copies[2], 100)
    with pytest.raises(ModelError, match=f"{copies[2].name}: the file was cut"):
        file.check_whole()
