"""What the profiler tests share: the recorded files, and a database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tuning_db import TuningDB, open_db

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "nsight"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The folder of what scripts/record_fixtures recorded on an H100."""
    return FIXTURES
