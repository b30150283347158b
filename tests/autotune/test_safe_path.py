"""A user's folder that holds a model.py, a click.py and so on: nothing of ours imports them, in no process we start."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from autotune.commands import tune_devices
from autotune.runner import python_process
from autotune.runner.fork_server import ForkedWorker, ForkServer
from autotune.runner.protocol import Open, Opened
from autotune.runner.worker_process import Worker
from kernel_templates.matvec.problem import Matvec

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("model", "kernel_templates", "tuning_db", "click", "numpy", "torch", "numba", "optuna", "jinja2", "psutil")
PACKAGES = ("autotune", "kernel_templates", "model", "tuning_db")
KERNEL_TABLE = "autotune.profiling.kernel_table"
COMPLAINT = "imported the user's file"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder. Without an autotune.py: that one `python -m autotune` itself would run."""
    path = tmp_path / "user"
    path.mkdir()
    for name in NAMES:
        (path / f"{name}.py").write_text(f"raise SystemExit({COMPLAINT!r})\n")
    monkeypatch.chdir(path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return path


@pytest.fixture
def hostile(folder) -> Path:
    """With an autotune.py, too."""
    (folder / "autotune.py").write_text(f"raise SystemExit({COMPLAINT!r})\n")
    return folder


def run(*words: object, **options) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=240, **options)
    assert COMPLAINT not in done.stderr + done.stdout
    return done


def test_tuning_from_such_a_folder(folder, tiny_model, tmp_path) -> None:
    options = ("--op", "head", "--trials", "1", "--db", tmp_path / "t.db", "--json")
    done = run(sys.executable, "-m", "autotune", "tune", tiny_model, *options)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["tuned"]) == 1


def test_chatting_from_such_a_folder(folder, tiny_model) -> None:
    done = run(sys.executable, "-m", "autotune", "chat", tiny_model, "-n", "2", input="hello\n")
    assert done.returncode == 0, done.stderr


def test_the_console_script(hostile, tiny_model) -> None:
    script = Path(sysconfig.get_path("scripts")) / "autotune"
    if not script.exists():
        pytest.skip("autotune is not installed here")
    done = run(script, "generate", tiny_model, "-p", "a", "-n", "2")
    assert done.returncode == 0, done.stderr


def test_workers_of_several_devices(hostile, capfd) -> None:
    """`--devices all` starts this very command for each; its help imports all commands."""
    assert tune_devices.run(["cpu"], ["tune", "--help"], "sqlite://") == 0
    assert COMPLAINT not in capfd.readouterr().err


def test_forked_workers(hostile) -> None:
    pytest.importorskip("triton")
    with ForkServer() as server:
        worker = Worker(fork_server=server)
        try:
            request = Open("cpu", Matvec(96, 64, "Q8_0").key, 0, 1)
            assert isinstance(worker.ask(request, 120.0), Opened)
            assert isinstance(worker._process, ForkedWorker)
        finally:
            worker.stop()


def programs() -> list[str]:
    """Modules that are run as programs of their own."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if '__name__ == "__main__"' in path.read_text() and path.name != "__main__.py":
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


@pytest.mark.parametrize("module", [m for m in programs() if m != KERNEL_TABLE])
def test_every_program_of_ours(hostile, module) -> None:
    """Whatever it says without arguments, it has imported what it is made of."""
    run(*python_process.python_command(module), env=python_process.environment(), stdin=subprocess.DEVNULL)


def test_what_kernel_table_answers(hostile) -> None:
    pytest.importorskip("triton")
    command = python_process.python_command(KERNEL_TABLE)
    assert run(*command, env=python_process.environment(), input="[]").stdout == "[]"


def test_processes_are_started_in_one_place() -> None:
    """What starts Python names its executable; the template of a chat is rendered in an isolated one (-I)."""
    found = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "sys.executable" in path.read_text()
    ]
    assert sorted(found) == ["autotune/runner/python_process.py", "model/chat.py"]


def test_a_checkout_that_is_not_installed_runs(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run(sys.executable, "-m", "autotune", "db", "info", "--db", tmp_path / "none.db", cwd=ROOT, env=environment)
    assert done.returncode == 2 and "none.db" in done.stderr


def test_children_import_the_packages_of_this_process(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert python_process.environment()["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"
    assert python_process.environment({"A": "b"})["A"] == "b"
    monkeypatch.setattr(python_process, "ROOT", Path(sysconfig.get_path("purelib")).resolve())
    assert python_process.environment()["PYTHONPATH"] == "/elsewhere", "site-packages come after the standard library"
