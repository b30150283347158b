"""`autotune screen` on the command line: a few configurations compiled for a GPU that is not here."""

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
    assert "cannot be used" in complaint("screen", "matvec", "--problem", SMALL)
