"""What the command line's tests share: an invoker with a database of its own, and a filled database."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autotune.cli import cli
from kernel_templates.device import Device
from tuning_db import open_db
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

KEYS = ("matvec:rows=64,cols=64,format=Q4_0,activation=int16", "matvec:rows=64,cols=128,format=Q4_0,activation=int16")


@pytest.fixture(autouse=True)
def own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default database of these tests: a file that is not there yet."""
    path = tmp_path / "default.db"
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    monkeypatch.delenv("AUTOTUNE_DEBUG", raising=False)
    return path


@pytest.fixture
def autotune() -> Callable[..., Result]:
    """autotune("tune", path, ..., input=None) -> click's Result; a bug of ours keeps its traceback."""

    def call(*words: object, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def complaint(autotune: Callable[..., Result]) -> Callable[..., str]:
    """Like `autotune`, for what must fail: checks exit code 2, an empty stdout and one line; returns that line."""

    def call(*words: object, input: str | bytes | None = None) -> str:
        result = autotune(*words, input=input)
        assert (result.exit_code, result.stdout) == (2, ""), (result.exit_code, result.stdout, result.stderr)
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("autotune: error: "), result.stderr
        return result.stderr

    return call


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database with two winners on one device and a third on another."""
    path = tmp_path / "filled.db"
    chips = [Device("cpu", chip, "avx2", 2, 8 << 30, (("numba", "0.61"),)) for chip in ("Xeon", "Ryzen")]
    measured = Measurement(900.0, 1000.0, 1200.0, 30)
    with open_db(path) as db:
        for device, keys in zip(chips, (KEYS, KEYS[:1]), strict=True):
            for key in keys:
                run = db.begin_run(device, Run(key, 1, "tpe", 0, 100, 20_000, 80_000))
                trial = db.record_trial(run, Trial({"lanes": 64}, Outcome.OK, measured, 0.5, 1e-4, 1e-2))
                db.set_winner(device, Winner(key, 1, {"lanes": 64}, measured, 4000.0, 1e-4, 1e-2), run, trial)
                db.finish_run(run, "finished")
    return path
