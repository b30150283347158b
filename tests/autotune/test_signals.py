"""SIGTERM and SIGHUP keep the best so far, as Ctrl-C does."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def started(path: Path, model: Path, before: str = "pass") -> subprocess.Popen[str]:
    """A search that has nothing to stop it; before: a statement that runs first."""
    code = f"import sys; {before}; sys.argv = ['autotune', *sys.argv[1:]]; from autotune.cli import main; main()"
    words = ("tune", str(model), "--op", "matvec", "--budget", "0", "--trials", "100000", "--db", str(path))
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def trials(path: Path, least: int) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as raw:
                if raw.execute("SELECT count(*) FROM run_trials WHERE outcome = 'ok'").fetchone()[0] >= least:
                    return True
        except sqlite3.Error:
            pass
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGHUP, signal.SIGINT))]
)
def test_the_best_so_far_is_kept(tmp_path, tiny_model, number) -> None:
    path = tmp_path / "tuning.db"
    process = started(path, tiny_model)
    assert trials(path, 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in said and "interrupted" in said
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT DISTINCT status FROM runs").fetchall() == [("interrupted",)]
    assert raw.execute("SELECT count(*) FROM winners WHERE current").fetchone()[0] >= 1


@pytest.mark.slow
def test_under_nohup_a_hangup_is_ignored(tmp_path, tiny_model) -> None:
    path = tmp_path / "tuning.db"
    process = started(path, tiny_model, "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert trials(path, 1)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
