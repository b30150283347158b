"""`autotune ops` and `autotune space`."""

import json

import pytest

from kernel_templates import registry

KEY = "matvec:rows=64,cols=512,format=Q4_0,activation=int16"


def test_every_operation_is_listed(autotune) -> None:
    from kernel_templates.registry import OPERATIONS

    listed = {row["op"]: row for row in json.loads(autotune("ops", "--json").stdout)["operations"]}
    assert listed.keys() == OPERATIONS.keys() and all(row["computes"] and row["fields"] for row in listed.values())
    text = autotune("ops").stdout
    assert "problem: matvec:rows=…,cols=…,format=…,activation=…\n" in text
    assert "where they differ: window=0, softcap=0.0, scale=0.0, sinks=0, output_gate=0, cache=f16\n" in text
    traits = {"window": 0, "softcap": 0.0, "scale": 0.0, "sinks": 0, "output_gate": 0, "cache": "f16"}
    assert listed["attention"]["traits"] == traits


@pytest.mark.parametrize("where", [(), ("--gpu",)])
def test_a_space_with_meanings_and_reasons(autotune, where) -> None:
    shown = json.loads(autotune("space", KEY, *where, "--json").stdout)
    assert shown["problem"] == KEY and 0 < shown["valid"] <= shown["size"]
    assert all(p["meaning"] and p["default"] in p["values"] for p in shown["parameters"])
    assert all(c["reason"] for c in shown["constraints"])
    text = autotune("space", KEY, *where).stdout
    assert all(p["name"] in text for p in shown["parameters"]) and f"{shown['size']:,} configurations" in text


@pytest.mark.parametrize("op", registry.OPERATIONS)
def test_a_name_alone_stands_for_an_example(autotune, op) -> None:
    shown = json.loads(autotune("space", op, "--gpu", "--json").stdout)
    assert shown["problem"].startswith(f"{op}:") and shown["parameters"] and shown["size"]


def test_mistakes_are_one_line(complaint) -> None:
    assert "no operation is called 'gemv'" in complaint("space", "gemv:rows=1")
    assert "rows is missing; a problem names rows, cols, format, activation" in complaint("space", "matvec:")
    assert "no template for the cpu; --gpu" in complaint("space", "layer")
    complaint("space", KEY.replace("Q4_0", "IQ1_S"))
