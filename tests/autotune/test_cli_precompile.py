"""`autotune precompile` on the command line: kernels for a GPU that is not here, where launches look for them."""

import json
import os

import pytest

pytest.importorskip("triton")

from autotune.runner.meta_problem import MetaProblem
from autotune.screening import chips
from autotune.tuning.precompile import first_candidates, target_of
from kernel_templates import registry
from kernel_templates.cuda import kernel_cache
from kernel_templates.cuda.launch import HOPPER
from tuning_db import open_db

KEY = "matvec:rows=64,cols=512,format=Q4_0,activation=int16"
LAYER = (
    "layer:hidden=64,heads=4,kv_heads=2,head_dim=16,rope_dim=16,qk_norm=0,ffn=128,q_format=Q4_0,k_format=Q4_0,"
    "v_format=Q4_0,out_format=Q4_0,gate_format=Q4_0,up_format=Q4_0,down_format=Q4_0,activation=int16,context=160"
)
TARGET = target_of(chips.chip(90), 1)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
def test_kernels_are_where_launches_look_and_are_not_made_twice(autotune, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    with open_db(tmp_path / "tuning.db"):
        pass
    words = ("precompile", KEY, "--arch", "sm_90", "--candidates", 2, "--jobs", 1, "--db", tmp_path / "tuning.db")
    document = json.loads(autotune(*words, "--json").stdout)
    assert (document["problems"], document["candidates"], document["failed"]) == (1, 2, [])
    problem = registry.parse_problem(KEY)
    (launch,) = MetaProblem(problem).launches(TARGET.space(problem).default)
    kept = kernel_cache.path(launch, HOPPER, 90)
    whole = kept.read_bytes()
    assert document["kernels"] == len(list(kept.parent.iterdir())) == 2 and str(kept.parent) == document["folder"]
    kept.write_bytes(whole[: len(whole) // 2])  # as by a copy that was cut short: not believed, made again
    assert kernel_cache.read(kept) is None
    said = autotune(*words).stdout
    assert "0 new kernels" in said and str(kept.parent) in said and kernel_cache.read(kept) is not None


def test_first_comes_what_runs_untuned(tmp_path) -> None:
    with open_db(tmp_path / "tuning.db") as db:
        for key in (KEY, LAYER):
            problem = registry.parse_problem(key)
            space = TARGET.space(problem)
            found = first_candidates(problem, TARGET, db, 12)
            assert found[0] == space.default and len(found) == len(set(found)) == 12
            assert all(space.broken(config) is None for config in found)
        tiny = registry.parse_problem("attention:heads=4,kv_heads=2,head_dim=16,context=160")
        every = first_candidates(tiny, TARGET, db, 100_000)
        assert set(every) == set(TARGET.space(tiny).configs()), "more than there are: all there are"


def test_mistakes_are_one_line(complaint, tiny_qwen3) -> None:
    assert "sm_90" in complaint("precompile", tiny_qwen3, "--arch", "hopper")
    assert "sm_42" in complaint("precompile", tiny_qwen3, "--arch", "sm_42")
    assert "--arch sm_90" in complaint("precompile", tiny_qwen3)
    assert "no-such.gguf" in complaint("precompile", "no-such.gguf", "--arch", "sm_90")
