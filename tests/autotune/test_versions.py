"""The versions and the commit that every stored number names."""

import subprocess
from pathlib import Path

import pytest

from autotune.runner import versions

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_names_its_commit() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    head = subprocess.run(
        ("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"), capture_output=True, text=True, check=True
    ).stdout.strip()
    assert versions.versions()["commit"].removesuffix("+changes") == head


def test_every_version_is_the_installed_one() -> None:
    import numba
    import torch

    found = versions.versions()
    assert (found["numba"], found["torch"]) == (numba.__version__, torch.__version__)
