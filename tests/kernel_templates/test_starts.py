"""What a start on a GPU leaves out or begins early: still there when it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


def printed(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_the_engine_needs_brings_no_library_behind_torchs() -> None:
    code = """
import importlib, sys
import autotune.commands.generate, autotune.commands.loading, autotune.cli
from kernel_templates.cuda import early
for name in early.BRING_LIBRARIES:
    importlib.import_module(name)
libraries = lambda: {name for name, m in sys.modules.items() if str(getattr(m, "__file__", "")).endswith(".so")}
before = libraries()
import rich.progress, model.engine, model.sampling
assert model.tokenizer and "torch" not in sys.modules
print(sorted(libraries() - before))
"""
    assert printed(code) == "[]"


def test_torch_without_shapes_is_completed() -> None:
    code = """
from kernel_templates.cuda import lean_torch
lean_torch.begin()
import sys, torch
print("torch._decomp" in sys.modules, torch.arange(3).cumsum(0).tolist())
lean_torch.complete()
print(torch.linalg.cholesky(torch.empty(3, 3, device="meta")).shape[0])
lean_torch.complete()
lean_torch.begin()
print(torch._meta_registrations is sys.modules["torch._meta_registrations"])
"""
    assert printed(code).splitlines() == ["False [0, 1, 3]", "3", "True"]


def test_kernels_are_read_when_they_are_used() -> None:
    code = """
from triton.runtime.jit import JITFunction
from kernel_templates.cuda import thin
found = [k for k in vars(thin).values() if isinstance(k, JITFunction)]
assert found and not any("params" in vars(k) for k in found)
for k in found:
    plain = JITFunction(k.fn, **k._options)
    assert (k.__name__, k.__module__, k.__doc__) == (plain.__name__, plain.__module__, plain.__doc__)
    assert [vars(p) for p in k.params] == [vars(p) for p in plain.params] and k.src == plain.src
    assert not hasattr(k, "absent")
    assert k.starting_line_number == plain.starting_line_number and hash(k)
print(any(k.do_not_specialize for k in found))
"""
    assert printed(code) == "True"
