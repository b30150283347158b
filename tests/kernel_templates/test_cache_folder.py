"""Files of the cache are there whole or not at all, whoever writes them at once."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernel_templates import cache_folder


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    file, texts = tmp_path / "made" / "k.cubin", [bytes([i]) * 100_000 for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: cache_folder.write(file, text), texts))
    assert file.read_bytes() in texts and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_what_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch, error: BaseException) -> None:
    def replace(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", replace)
    if isinstance(error, OSError):
        cache_folder.write(tmp_path / "k", b"x")
    else:
        with pytest.raises(KeyboardInterrupt):
            cache_folder.write(tmp_path / "k", b"x")
    assert not list(tmp_path.iterdir())
