"""These tests need a CUDA GPU: without one all of them are skipped; without Triton they cannot even be imported."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_gpu_*.py"]
NONE = pytest.mark.skip(reason="needs a CUDA GPU")

STATE = os.environ.get("XDG_STATE_HOME")  # before the tests have one of their own


@pytest.fixture(autouse=True)
def alone_on_the_gpu() -> Iterator[None]:
    """The device's own lock, in the user's state folder: times and energy are not those of other kernels, neither of
    tests in other processes of pytest nor of a tuning run beside them. What a test itself starts locks in the tests'
    state folder."""
    from autotune.runner import device_lock
    from autotune.tuning import target

    with ExitStack() as held:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("XDG_STATE_HOME") if STATE is None else patch.setenv("XDG_STATE_HOME", STATE)
            held.enter_context(device_lock.measuring(target.identity("cuda:0"), "cuda:0"))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(NONE)
