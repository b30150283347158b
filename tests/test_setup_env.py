"""scripts/setup_env: which extras it asks pip for, with a Python in its place that writes down what it is told."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = '#!/bin/sh\necho "$@" >>"$(dirname "$0")/told"\n'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the script and an environment in which everything succeeds."""
    for name in ("scripts/setup_env", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def run(folder: Path, *extras: str) -> subprocess.CompletedProcess:
    return subprocess.run([folder / "scripts" / "setup_env", *extras], capture_output=True, text=True, timeout=60)


def installed(folder: Path) -> set[str]:
    """The extras of the editable install, without "cuda", which a machine with a driver adds."""
    told = (folder / ".venv" / "bin" / "told").read_text().splitlines()
    (line,) = [line for line in told if " -e ." in line]
    return set(filter(None, line.rpartition(" -e .")[2].strip("[]").split(","))) - {"cuda"}


@pytest.mark.parametrize(
    "extras", [(), ("browse",), ("nsight", "browse"), ("test", "browse", "test"), ("search-peers",)]
)
def test_extras_are_installed_together_and_editable(copy: Path, extras: tuple[str, ...]) -> None:
    done = run(copy, *extras)
    assert done.returncode == 0, done.stderr
    assert installed(copy) == set(extras)
    told = (copy / ".venv" / "bin" / "told").read_text()
    assert run(copy, *reversed(extras)).stderr == ""  # up to date, in any order
    assert "install" not in (copy / ".venv" / "bin" / "told").read_text()[len(told) :]


def test_every_extra_is_known_and_no_other(copy: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wrong in ("nonsense", "", "--help", "browse,test"):
        done = run(copy, "browse", wrong)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.endswith(f"there are {' '.join(extras)}\n")
