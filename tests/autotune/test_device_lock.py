"""Two processes tune on one device: one waits and says for whom, none loses a record, and a dead one holds nothing."""

import time
from collections.abc import Callable
from pathlib import Path

import faulty
import pytest
from faulty import DEVICE
from forked import Forked
from waiting import eventually

from autotune.runner.device_lock import lock_path, measuring
from autotune.tuning import sequential
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import TrialKind


def tune(say: Callable[[object], None], path: Path, size: int, trials: int) -> None:
    """Says what it is told, and last when its first and its last measurement were over."""
    registry.OPERATIONS["faulty"] = faulty.operation()
    ends: list[float] = []
    settings = TuneSettings(trials=trials, report=lambda _: ends.append(time.time()), tell=say)
    with open_db(path) as db:
        sequential.tune({faulty.Faulty(size): 1}, db, settings, faulty.target(identity="one"))
    say((ends[0], ends[-1]))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FAULTY_SLOW", "0.05")


def test_two_tuners_measure_one_after_the_other(tmp_path) -> None:
    path, count = tmp_path / "t.db", 8
    pair = [Forked(tune, path, size, count) for size in (1, 2)]
    heard = [process.rest() for process in pair]
    assert [process.wait() for process in pair] == [0, 0]
    (first, holder), (second, _) = sorted(zip(heard, pair, strict=True), key=lambda both: both[0][-1][0])
    assert first[-1][1] < second[-1][0], "they measured at the same time"
    assert second[:-1] == [f"waiting for process {holder.pid}, which measures on cpu; Ctrl-C gives up"]
    with open_db(path, readonly=True) as db:
        assert [run.status for run in db.runs()] == ["finished"] * 2 and len(db.winners(DEVICE)) == 2
        for run in db.runs():
            tried = [Config(t.config) for t in db.trials(run.id) if t.kind is TrialKind.SEARCH]
            assert len(set(tried)) == len(tried) == count


def test_a_killed_holder_holds_nothing(tmp_path) -> None:
    holder = Forked(tune, tmp_path / "k.db", 1, 200)
    assert eventually(lock_path("one").with_suffix(".pid").exists)
    waiting: list[str] = []
    holder.kill()
    holder.wait()
    with measuring("one", "cpu", waiting.append), measuring("one", "cpu", waiting.append):
        assert waiting == []


def test_other_devices_are_not_waited_for(tmp_path) -> None:
    assert len({lock_path(name) for name in ("cpu", "GPU/1", "GPU-1", "GPU-2")}) == 4
    with measuring("GPU-1", "cuda:0"), measuring("GPU-2", "cuda:1", lambda message: pytest.fail(message)):
        pass
