"""`scripts/bench_speculate`: ratios of rounds, and both ways over a tiny model."""

import json
import sys
from pathlib import Path

from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_speculate
from speculation_prompts import OWN, QUOTING

from model.speculation_policy import Speculated


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    def made(plain: float, speculated: float) -> dict:
        way = {"text": [1, 2, 3], "done": Speculated(7, 5, 1)}
        return {"off": {**way, "tok_s": plain}, "ngram": {**way, "text": [1, 2, 4], "tok_s": speculated}}

    found = bench_speculate.summary([made(100, 200), made(10, 30), made(100, 210)])
    assert found["ratios"] == [2.0, 3.0, 2.1] and found["ratio"] == 2.1
    assert (found["plain_tok_s"], found["speculated_tok_s"], found["same_tokens"]) == (100, 200, 2)
    assert (found["proposed"], found["kept"], found["passes"], found["off"]) == (7, 5, 1, False)


def test_ten_prompts_that_quote_and_ten_that_do_not() -> None:
    assert len(QUOTING) == len(OWN) == 10 and not set(QUOTING) & set(OWN)


def test_a_run_writes_what_it_measured(tiny_model, tmp_path, monkeypatch) -> None:
    short = {"quoting": ({"q": "one two one two one two"}, bench_speculate.SETS["quoting"][1])}
    monkeypatch.setattr(bench_speculate, "SETS", short | {"own": ({"o": "hello"}, bench_speculate.SETS["own"][1])})
    out = tmp_path / "speculate.json"
    words = ["--model", str(tiny_model), "--tokens", "16", "--rounds", "2", "--out", str(out)]
    result = CliRunner().invoke(bench_speculate.main, words)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    row = document["results"]["quoting"]["prompts"]["q"]
    assert len(row["ratios"]) == 2 and row["plain_tok_s"] > 0 and 0 <= row["kept"] <= row["proposed"]
    assert document["results"]["own"]["must"] == 0.97 and document["step_us"] > 0
