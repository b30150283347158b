"""Experts split between GPU and host: what the sides are asked for, what comes of their documents, and the table."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPLIT, HOST, CPU = "split", "at the host", "processor alone"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def document(tok_s: float, prompt: int, gpu_memory: int | None, layers: str = "") -> dict[str, Any]:
    """As `autotune bench --json` writes it, as far as it is read."""
    settings: dict[str, Any] = {"prompt": prompt, "runs": 3}
    if gpu_memory is not None:
        host = {"layers": layers, "bytes": 1, "token_us": 300.0}
        experts = {"gpu": {"layers": "1"}, "host": host, "copy_ms": 10.0, "copied_from_rows": 32}
        settings |= {"gpu_memory": gpu_memory, "experts": {"tuned": experts}}
    decode = {"0": {"tok_s": tok_s, "tok_s_range": [tok_s - 10, tok_s + 1]}}
    return {"settings": settings, "tuned": {"decode": decode, "prefill_tok_s": 1234.0}}


SIDES = {
    SPLIT: document(50.0, 512, 8 * 10**9, "2-4, 7, 9-14"), HOST: document(40.0, 512, 3 * 10**9, "2-48"),
    CPU: document(30.0, 64, None),
}  # fmt: skip


def test_sides_differ_by_the_limit_and_the_processor_has_none() -> None:
    import bench_experts

    asked = bench_experts.commands("8GB", "3GB", "cuda:1", 5)
    assert [asked[side][:2] for side in (SPLIT, HOST)] == [["--gpu-memory", "8GB"], ["--gpu-memory", "3GB"]]
    assert asked[SPLIT][2:] == asked[HOST][2:] and "cuda:1" in asked[SPLIT]
    assert "--gpu-memory" not in asked[CPU] and "--device" not in asked[CPU]
    assert all(words[words.index("--runs") + 1] == "5" for words in asked.values())


def test_copies_are_reckoned_for_the_layers_at_the_host() -> None:
    import bench_experts

    found = bench_experts.summary(SIDES)
    assert found["copied_for_every_token_tok_s"] == pytest.approx(1 / (10 * 10e-3))
    assert found["decode_tok_s"] == {SPLIT: 50.0, HOST: 40.0, CPU: 30.0}
    assert found["limits"] == {SPLIT: 8 * 10**9, HOST: 3 * 10**9, CPU: None}


def test_the_table_has_runs_ranges_and_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_experts
    from readme_tables import beside_decoding, measured

    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    assert "No measurement is committed yet" in beside_decoding.split_experts()
    (tmp_path / "h200").mkdir()
    written = {
        "date": "2026-11-30T00", "command": "a command", "name": "a mixture", "versions": {"commit": "abc"},
        "host": {"chip": "a processor", "cores": 16}, "device": {"chip": "NVIDIA H200"},
        "result": bench_experts.summary(SIDES), "sides": SIDES,
    }  # fmt: skip
    (tmp_path / "h200" / "experts.json").write_text(json.dumps(written))
    table = beside_decoding.split_experts()
    assert f"| {SPLIT} | 8 GB | 50 (40–51) | 3 | 1,234 | 512 |" in table
    assert f"| {CPU} | – | 30 (20–31) | 3 | 1,234 | 64 |" in table
    assert "(reckoned) | 8 GB | < 10.0 |" in table and "commit abc" in table and "`a command`" in table
