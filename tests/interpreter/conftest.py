"""These tests run kernels in Triton's interpreter, which must be chosen before Triton is imported."""

import os
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_interp_*.py"]


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[pytest.MonkeyPatch]:
    """The interpreter without what it does for nothing; what is undone is Triton's own."""
    import quick_interpreter

    with pytest.MonkeyPatch.context() as patch:
        quick_interpreter.install(patch)
        yield patch


@pytest.fixture(scope="session", autouse=True)
def watched() -> Iterator[None]:
    """A patch of its own: a test that undoes `quick` leaves every later one watched."""
    import bounds

    with pytest.MonkeyPatch.context() as patch:
        bounds.install(patch)
        yield
