"""These tests need a CUDA GPU: without one all of them are skipped; without Triton they cannot even be imported."""

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_gpu_*.py"]
NONE = pytest.mark.skip(reason="needs a CUDA GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(NONE)
