"""What the profiler tests share: what scripts/record_fixtures recorded on an H100, and a database."""

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuning_db import TuningDB, open_db

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """recorded("small.ncu-rep") -> its path, unpacked where it is kept packed."""
    folder = tmp_path_factory.mktemp("recorded")

    def path_of(name: str) -> Path:
        packed = FIXTURES / f"{name}.xz"
        if not packed.exists():
            return FIXTURES / name
        path = folder / name
        if not path.exists():
            path.write_bytes(lzma.decompress(packed.read_bytes()))
        return path

    return path_of
