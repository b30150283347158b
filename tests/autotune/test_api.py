"""`autotune.load` and `autotune.tune`: the README's program as it stands, and what may be in its way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import autotune

ROOT = Path(__file__).resolve().parent.parent.parent


def readme_program() -> str:
    text = (ROOT / "README.md").read_text()
    return text.partition("```python\n")[2].partition("```")[0]


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AUTOTUNE_DB": str(folder / "own.db")}
    (folder / "program.py").write_text(code)
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_readme_program_beside_a_model_py(tiny_model: Path, tmp_path: Path) -> None:
    """Beside a file of the user's own that is called as our package."""
    shutil.copy(tiny_model, tmp_path / "model.gguf")
    (tmp_path / "model.py").write_text("raise SystemExit('the wrong model')\n")
    code = readme_program()
    assert "budget=75" in code
    little = code.replace("budget=75", 'trials=1, ops=["head"]')
    done = run(little + "print(logits.dtype, logits.shape)\n", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "float32 (" in done.stdout
    assert (tmp_path / "own.db").exists()


def test_importing_is_light(tmp_path: Path) -> None:
    heavy = "('torch', 'numba', 'numpy', 'optuna', 'sqlite3', 'click')"
    done = run(f"import sys, autotune\nprint([name for name in {heavy} if name in sys.modules])", tmp_path)
    assert done.stdout == "[]\n", done.stderr


def test_a_foreign_module_of_that_name_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    done = run(
        "import model, autotune\ntry: autotune.load('x.gguf')\nexcept autotune.UserError as e: print(e)", tmp_path
    )
    assert "model.py is imported as model, which is autotune's own name" in done.stdout, done.stderr


def test_a_database_is_taken_by_path_and_open(tiny_model: Path, tmp_path: Path) -> None:
    from tuning_db import open_db

    (tuned,) = autotune.tune(tiny_model, db=tmp_path / "a.db", trials=1, ops=["head"])
    for db in (tmp_path / "a.db", str(tmp_path / "a.db")):
        model = autotune.load(tiny_model, db=db)
        assert any(choice.source.name == "EXACT" for choice in model.choices.values())
        model.close()
    with open_db(tmp_path / "a.db") as db:
        model = autotune.load(tiny_model, db=db, tuned=False)
        assert tuned.problem in model.choices
        model.close()


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"budget": -1}, {"budget": float("nan")}, {"sampler": "x"},
                                   {"ops": ["x"]}, {"context": 0}])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(autotune.UserError):
        autotune.tune(tiny_model, db=tmp_path / "a.db", **wrong)
