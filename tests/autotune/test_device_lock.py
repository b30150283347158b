"""Two processes tune on one device: one waits and says for whom, none loses a record, and a dead one holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from faulty import DEVICE
from waiting import eventually

from autotune.runner.device_lock import lock_path, measuring
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import TrialKind

TUNER = """
import sys, time
sys.path.insert(0, {folder!r})
import faulty
from autotune.tuning import sequential
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from tuning_db import open_db
registry.OPERATIONS["faulty"] = faulty.operation()
problem, spans = faulty.Faulty(int(sys.argv[2])), []
with open_db(sys.argv[1]) as db:
    settings = TuneSettings(trials=int(sys.argv[3]), report=lambda p: spans.append(time.time()),
                            tell=lambda m: print("told", m, flush=True))
    sequential.tune({{problem: 1}}, db, settings, faulty.target(identity="one"))
print("spans", spans[0], spans[-1], flush=True)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FAULTY_SLOW", "0.05")


def start(path: Path, size: int, trials: int) -> subprocess.Popen:
    script = TUNER.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(path), str(size), str(trials)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_tuners_measure_one_after_the_other(tmp_path) -> None:
    path, count = tmp_path / "t.db", 8
    pair = [start(path, size, count) for size in (1, 2)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    order = sorted(zip(outputs, pair, strict=True), key=lambda both: float(both[0][-1].split()[1]))
    (first, holder), (second, _) = order
    assert float(first[-1].split()[2]) < float(second[-1].split()[1]), "they measured at the same time"
    assert second[:-1] == [f"told waiting for process {holder.pid}, which measures on cpu; Ctrl-C gives up"]
    with open_db(path, readonly=True) as db:
        assert [run.status for run in db.runs()] == ["finished"] * 2 and len(db.winners(DEVICE)) == 2
        for run in db.runs():
            tried = [Config(t.config) for t in db.trials(run.id) if t.kind is TrialKind.SEARCH]
            assert len(set(tried)) == len(tried) == count


def test_a_killed_holder_holds_nothing(tmp_path) -> None:
    holder = start(tmp_path / "k.db", 1, 200)
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
