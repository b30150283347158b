"""Compiling for a GPU that is not here: what it leaves of this process as it was."""

import gc
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from kernel_templates.cuda import crosscompile

OPERATIONS = """
import sys
from autotune.runner.meta_problem import MetaProblem
from autotune.screening import chips
from kernel_templates import registry
for key in sys.argv[1:]:
    problem = registry.parse_problem(key)
    assert MetaProblem(problem).launches(registry.cuda_space(problem, chips.chip(90).device).default)
print(sorted(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""
KEYS = (
    "attention:heads=4,kv_heads=2,head_dim=16,context=640",
    "ffn:hidden=64,ffn=128,gate_format=Q4_0,up_format=Q4_0,down_format=Q8_0,activation=int16",
    "head:vocab=256,hidden=256,format=Q6_K,activation=int16",
    "matmul:rows=64,cols=64,format=Q4_0,tokens=16",
    "matmul:rows=128,cols=64,format=Q4_0,tokens=2048,gate=silu",
    "norm_qkv_rope:hidden=64,heads=4,kv_heads=2,head_dim=16,rope_dim=16,qk_norm=1,q_format=Q4_0,k_format=Q4_0,"
    "v_format=Q8_0,activation=int16",
    "paged_attention:sequences=2,tokens=4,heads=4,kv_heads=2,head_dim=16,context=160",
)


@pytest.mark.parametrize("was", [True, False])
def test_pythons_collector_rests_and_is_as_it_was(monkeypatch, was: bool) -> None:
    def compiled(*_) -> None:
        assert not gc.isenabled()
        raise ValueError("as Triton does")

    monkeypatch.setattr(crosscompile, "_compiled", compiled)
    if not was:
        gc.disable()
    try:
        with pytest.raises(ValueError, match="as Triton does"):
            crosscompile.cross_compile(None, 90)
        assert gc.isenabled() is was
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="a process of its own, which compiles")
def test_shapes_alone_import_no_compiler_of_torchs() -> None:
    """It takes as long as everything else that a compiling process imports."""
    words = [sys.executable, "-c", OPERATIONS, *KEYS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-500:]
