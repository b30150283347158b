"""`autotune tune`, `bench` and `devices`: what they pass on and what they print; the libraries are stand-ins here."""

import json
import sys
from types import ModuleType

import pytest

from autotune import ceilings, tuner
from autotune.tuner import Progress, Tuned
from tuning_db.records import Outcome

LIMITS = {"read_gb_s": 31.5, "copy_gb_s": 20.0, "int8_gop_s": 900.0, "f32_gflop_s": 200.0, "measured_at": 1.7e9}


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """Each call of a stand-in `tuner.tune` that reports one trial and a result per problem."""
    made: list[dict] = []

    def tune(problems, db, *, report, **settings):
        made.append({"problems": problems, "writable": db.writable, **settings})
        for index, problem in enumerate(problems):
            report(Progress(problem, index, len(problems), 1, settings["trials"], 500.0, 1000.0, Outcome.OK))
        return [
            Tuned(p, n, {"lanes": 64}, 1000.0, 500.0, 20.0, 10.0, 0.7, 9, 1, "searched") for p, n in problems.items()
        ]

    monkeypatch.setattr(tuner, "tune", tune)
    return made


def test_tune_passes_everything_on(autotune, calls, tiny_model) -> None:
    result = autotune("tune", tiny_model)
    assert result.exit_code == 0 and len(calls[0]["problems"]) == 5
    assert {k: calls[0][k] for k in ("writable", "trials", "budget_s", "sampler", "seed")} == {
        "writable": True, "trials": 40, "budget_s": 75.0, "sampler": "climb", "seed": 0,
    }  # fmt: skip
    assert "matvec:rows=64,cols=64" in result.stdout and " 9 " in result.stdout and "70%" in result.stdout
    assert "geometric mean speed-up 2.00×" in result.stdout
    assert "(5 of 5)" in result.stderr and "5 of 5 problems have a winner" in result.stderr
    options = ("--op", "matvec", "--op", "head", "--budget", "0", "--trials", "3", "--sampler", "random", "--seed", "9")
    autotune("tune", tiny_model, *options)
    assert sorted(p.op for p in calls[1]["problems"]) == ["head", "matvec"]
    assert (calls[1]["budget_s"], calls[1]["trials"], calls[1]["sampler"], calls[1]["seed"]) == (None, 3, "random", 9)


def test_tune_json_is_one_document(autotune, calls, tiny_model, own_database) -> None:
    document = json.loads(autotune("tune", tiny_model, "--json").stdout)
    assert document["database"] == str(own_database) and not document["interrupted"]
    assert [row["config"] for row in document["tuned"]] == [{"lanes": 64}] * 5


def test_interrupt_shows_what_was_kept(autotune, monkeypatch, tiny_model) -> None:
    from kernel_templates.cpu import machine
    from tuning_db.records import Measurement, Winner

    def tune(problems, db, **_):
        problem = next(iter(problems))
        measured = Measurement(400.0, 500.0, 600.0, 9)
        winner = Winner(problem.key, problem.template_version, {"lanes": 64}, measured, 1000.0, 0.0, 1.0)
        db.set_winner(machine.detect(), winner, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuner, "tune", tune)
    result = autotune("tune", tiny_model)
    assert result.exit_code == 130 and "Kept so far" in result.stdout and "2.00×" in result.stdout
    assert "1 of 5 problems have a winner" in result.stderr and result.stderr.endswith("autotune: interrupted\n")
    document = json.loads(autotune("tune", tiny_model, "--json").stdout)
    assert document["interrupted"] and len(document["tuned"]) == 1


def test_a_problem_without_a_working_configuration(complaint, monkeypatch, tiny_model) -> None:
    def tune(*_, **__):
        raise tuner.TuneError("matvec:...: no configuration worked; autotune db list --runs shows why")

    monkeypatch.setattr(tuner, "tune", tune)
    assert "no configuration worked" in complaint("tune", tiny_model)


def test_bench(autotune, monkeypatch, tiny_model) -> None:
    side = {"prefill_tok_s": 300.0, "decode_tok_s": 90.0, "bytes_per_token": 98e6, "gb_s": 8.8, "share": 0.28}
    operation = {"op": "ffn", "problem": "ffn:a=1", "count": 30, "default_us": 200.0, "tuned_us": 50.0, "gb_s": 30.0}
    asked: list[dict] = []

    def bench(path, db, device, **settings):
        asked.append({"device": device, **settings})
        faster = {**side, "decode_tok_s": 270.0, "share": float("nan")}
        return {"model": str(path), "untuned": side, "tuned": faster, "operations": [{**operation, "share": 0.95}]}

    stand_in = ModuleType("autotune.bench")
    stand_in.bench = bench  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autotune.bench", stand_in)
    monkeypatch.setattr("autotune.bench", stand_in, raising=False)
    result = autotune("bench", tiny_model)
    assert result.exit_code == 0 and "270.0" in result.stdout and "4.00×" in result.stdout and "95%" in result.stdout
    assert asked == [{"device": "cpu", "prompt": 512, "tokens": 128, "runs": 5}]
    assert json.loads(autotune("bench", tiny_model, "--json").stdout)["tuned"]["share"] is None


def test_devices(autotune, monkeypatch) -> None:
    forced: list[bool] = []

    def known_or_measured(db, device, force=False):
        forced.append(force)
        return LIMITS

    monkeypatch.setattr(ceilings, "known_or_measured", known_or_measured)
    document = json.loads(autotune("devices", "--json").stdout)
    assert document["devices"][0]["ceilings"]["read_gb_s"] == 31.5 and document["devices"][0]["name"] == "cpu"
    result = autotune("devices", "--measure")
    assert "31.5 GB/s" in result.stdout and "measuring" in result.stderr and forced == [False, True]


@pytest.mark.slow
def test_for_real(autotune, tiny_model) -> None:
    """Tune, use and measure one operation of a tiny model; nothing is a stand-in."""
    result = autotune("tune", tiny_model, "--op", "head", "--trials", "2", "--budget", "20", "--json")
    (row,) = json.loads(result.stdout)["tuned"]
    assert result.exit_code == 0 and row["problem"].startswith("head:") and row["best_ns"] <= row["default_ns"]
    document = json.loads(autotune("generate", tiny_model, "-p", "a", "-n", "1", "--json").stdout)
    assert {k["source"] for k in document["kernels"]} == {"exact", "default"}
    report = autotune("bench", tiny_model, "--prompt", "16", "--tokens", "4", "--runs", "1")
    assert report.exit_code == 0 and "head:vocab=512" in report.stdout
    assert json.loads(autotune("db", "best", "head", "--json").stdout)["winners"][0]["config"] == row["config"]
