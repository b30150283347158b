"""`scripts/bench_formats` on this processor and a small product: every row beside Q4_0's, and errors in one line."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "bench_formats.py"), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_format_beside_q4_0(tmp_path: Path) -> None:
    words = ("Q4_K", "--shape", "256x256", "--rounds", "2", "--threads", "1", "--out", str(tmp_path / "formats.json"))
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "formats.json").read_text())["results"]
    assert [(row["shape"], row["format"], row["kind"]) for row in results] == [
        ("256x256", "Q4_0", "default"), ("256x256", "Q4_K", "default"),
    ]  # fmt: skip
    assert results[0]["share_over_q4_0"] == 1.0 and all(row["us"] > 0 and row["gb_s"] > 0 for row in results)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        spec = importlib.util.spec_from_file_location("bench_formats", ROOT / "scripts" / "bench_formats.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "bench_formats", module)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("words", [("Q9_9",), ("--shape", "4096"), ("--shape", "64x100")])
def test_mistakes_are_one_line(script: ModuleType, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(script.main, words)
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("Error: ")
