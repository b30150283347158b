"""`autotune screen` on the command line: a few configurations compiled for a GPU that is not here."""

import importlib.util
import json
import os

import pytest

pytest.importorskip("triton")
SMALL = "rows=64,cols=512,format=Q4_0,activation=int16"


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
def test_a_ranking_with_reasons(autotune) -> None:
    words = ("screen", "matvec", "--problem", SMALL, "--arch", "sm_90", "--limit", 3, "--jobs", 1, "--json")
    document = json.loads(autotune(*words).stdout)
    rows = document["candidates"]
    assert document["problem"] == f"matvec:{SMALL}" and len(rows) == 3 and [r["rank"] for r in rows] == [1, 2, 3]
    assert any(row["kept"] for row in rows) and all(row["kept"] == (row["reason"] is None) for row in rows)
    for row in rows:
        (kernel,) = row["kernels"]
        assert kernel["registers"] > 16 and 0 < kernel["occupancy"] <= 1 and kernel["widest_load_bytes"] == 16
        assert row["bound_ns"] == max(row["memory_ns"], row["issue_ns"], row["latency_ns"])
    busy = [row["issue_ns"] + row["latency_ns"] for row in rows if row["kept"]]
    assert busy == sorted(busy)


def test_mistakes_are_one_line(complaint) -> None:
    assert "no operation is called 'gemv'" in complaint("screen", "gemv", "--problem", SMALL, "--arch", "sm_90")
    assert "sm_90" in complaint("screen", "matvec", "--problem", SMALL, "--arch", "hopper")
    assert "sm_42" in complaint("screen", "matvec", "--problem", SMALL, "--arch", "sm_42")
    assert "cols" in complaint("screen", "matvec", "--problem", "rows=64", "--arch", "sm_90")
    said = complaint("screen", "matvec", "--problem", SMALL)
    assert "cannot be used" in said and "--arch sm_90" in said and "--device" not in said
    assert "qk_norm" in complaint("screen", "norm_qkv_rope", "--problem", QKV.replace("qk_norm=0", "qk_norm=2"))


QKV = (
    "hidden=64,heads=4,kv_heads=2,head_dim=16,rope_dim=16,qk_norm=0,q_format=Q4_0,k_format=Q4_0,v_format=Q4_0,"
    "activation=int16"
)
ATTENTION = "heads=4,kv_heads=2,head_dim=16,context=160"


@pytest.mark.parametrize(
    ("op", "problem"),
    [
        *(("matvec", SMALL.replace("format=Q4_0", f"format={name}")) for name in ("IQ2_XXS", "", "q4_0", "Q4_0\n")),
        *(("matvec", SMALL.replace("rows=64", f"rows={n}")) for n in ("0", "-64", "64.5", "²", "", "9" * 30)),
        ("matvec", SMALL.replace("rows=64", f"rows={'9' * 5000}")),
        *(("matvec", SMALL.replace("cols=512", f"cols={n}")) for n in ("0", "-64", "1", "33", "9" * 30)),
        ("matvec", SMALL.replace("int16", "int4")),
        ("matvec", "rows=16777216,cols=16777216,format=Q4_0,activation=int16"),
        *(("norm_qkv_rope", QKV.replace("heads=4", f"heads={n}")) for n in ("0", "3", "100000")),
        *(("norm_qkv_rope", QKV.replace("rope_dim=16", f"rope_dim={n}")) for n in ("0", "7", "32")),
        *(("attention", ATTENTION.replace("head_dim=16", f"head_dim={n}")) for n in ("0", "8", "100000")),
        *(("attention", ATTENTION.replace("context=160", f"context={n}")) for n in ("0", "-1", "9" * 20)),
    ],
)
def test_a_problem_that_cannot_be_is_one_line(complaint, own_database, op, problem) -> None:
    """Wherever a problem is given."""
    complaint("screen", op, "--problem", problem, "--arch", "sm_90")
    complaint("profile", f"{op}:{problem}")
    complaint("db", "explain", f"{op}:{problem}")


def test_without_triton_the_extra_is_named(complaint, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "triton" else found(name, *a))
    said = complaint("screen", "matvec", "--problem", SMALL, "--arch", "sm_90")
    assert "./scripts/setup_env cuda" in said
