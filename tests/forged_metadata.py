"""GGUF files whose metadata says something else, and how they have to be refused."""

from dataclasses import replace
from typing import Any

import pytest

from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import GGUFFile


def changed(file: GGUFFile, **keys: Any) -> GGUFFile:
    """The file with keys of its architecture changed; "__" stands for a dot, None removes the key."""
    own = {f"{file.metadata['general.architecture']}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return replace(file, metadata={k: value for k, value in (dict(file.metadata) | own).items() if value is not None})


def assert_refused(file: GGUFFile, named: str) -> None:
    """In one line that has this in it."""
    with pytest.raises(ModelError) as caught:
        ModelConfig.from_gguf(file)
    assert named in str(caught.value) and str(caught.value).isprintable()
