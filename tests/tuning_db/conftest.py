"""What the database tests share: devices, records with plausible numbers, and a way to lose root's privileges."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_templates.device import Device
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

KEY = "matvec:rows=576,cols=576,format=Q4_1,residual=1"


class Samples:
    key = KEY

    @staticmethod
    def device(chip: str = "Xeon", memory_bytes: int = 8 << 30, numba: str = "0.61") -> Device:
        return Device("cpu", chip, "avx512-vnni", 2, memory_bytes, (("numba", numba),))

    @staticmethod
    def run(problem: str = KEY, template_version: int = 1) -> Run:
        return Run(problem, template_version, "random", 7, 1200, 186_624, 663_552, {"commit": "abc"})

    @staticmethod
    def trial(tile: int = 64, median_ns: float = 1000.0) -> Trial:
        measured = Measurement(median_ns * 0.9, median_ns, median_ns * 1.2, 30)
        return Trial({"tile": tile, "layout": "rows"}, Outcome.OK, measured, 0.8, 1e-3, 1e-2)

    @staticmethod
    def winner(problem: str = KEY, tile: int = 64, template_version: int = 1, median_ns: float = 1000.0) -> Winner:
        measured = Measurement(median_ns * 0.9, median_ns, median_ns * 1.2, 30)
        return Winner(problem, template_version, {"tile": tile}, measured, 4000.0, 1e-3, 1e-2)


@pytest.fixture(scope="session")
def samples() -> Samples:
    return Samples()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user may enter and write; pytest's own are closed to all but their owner."""
    path = Path(tempfile.mkdtemp(prefix="tuning-db-"))
    path.chmod(0o777)
    yield path
    path.chmod(0o777)
    shutil.rmtree(path)


def _drop_root_and_call(queue: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        queue.put(function(*arguments))
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


@pytest.fixture
def as_ordinary_user() -> Callable[..., Any]:
    """Call a function in a child process that permission bits bind, and return its result or its error as text."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_drop_root_and_call, args=(queue, function, arguments))
        child.start()
        answer = queue.get()
        child.join()
        return answer

    return call
