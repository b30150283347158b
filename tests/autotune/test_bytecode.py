"""Bytecode of packages that were installed without any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import subprocess, sys
from autotune.runner import bytecode
bytecode.keep("heavy")
import heavy
subprocess.run([sys.executable, "-c", "import heavy, sys; print(sys.pycache_prefix)"], check=True)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A package of one file, its source only."""
    package = tmp_path / "site" / "heavy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("answer = 42\n")
    return package


def run(tmp_path: Path, **extra: str) -> str:
    """What a child of a process that keeps bytecode says of its prefix."""
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment = {**plain, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment | extra, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("__init__.*.pyc"))


def test_what_has_none_is_kept_in_the_users_cache(tmp_path, installed) -> None:
    said = run(tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert said == str(tmp_path / "cache" / "autotune" / "bytecode")
    assert any("heavy" in path.parts for path in kept(tmp_path)) and not (installed / "__pycache__").exists()


def test_what_was_compiled_when_it_was_installed_changes_nothing(tmp_path, installed) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(installed)], check=True)
    assert run(tmp_path) == "None" and not kept(tmp_path)


def test_a_prefix_that_is_set_stays(tmp_path, installed) -> None:
    assert run(tmp_path, PYTHONPYCACHEPREFIX=str(tmp_path / "own")) == str(tmp_path / "own")


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, installed) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert run(tmp_path, PYTHONDONTWRITEBYTECODE="1")
