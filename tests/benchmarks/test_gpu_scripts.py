"""The scripts that measure on a GPU, without one: which models, what a failure stops, what the README says."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[2]
CHIP = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def benched(chip: str = CHIP, tok_s: float = 4000.0) -> dict[str, Any]:
    """What `autotune bench --json` prints for a GPU."""
    row = {"tok_s": tok_s, "bytes_per_token": 400_000_000, "gb_s": 1600.0, "share": 0.5, "kernels_per_token": 142}
    deep = row | {"tok_s": tok_s / 2, "bytes_per_token": 800_000_000}
    side = {
        "prefill_tok_s": 40000.0, "decode": {"4096": deep, "0": row},
        "prompts": {"16": {"tok_s": 8000.0}, "2048": {"tok_s": 40000.0}}, "batches": {"8": {"tok_s": 14000.0}},
    }  # fmt: skip
    kernel = {"kernel": "down", "count": 28, "us": 56.0, "us_each": 2.0, "bytes": 112_000_000, "gb_s": 2000.0}
    pick = kernel | {"kernel": "pick", "count": 1, "us": 2.0, "bytes": None, "gb_s": None}
    return {
        "model": "m.gguf",
        "device": {"chip": chip, "fingerprint": "f", "read_gb_s": 3200.0},
        "versions": {"torch": "2", "commit": "abc"},
        "settings": {"prompt": 2048, "tokens": 128, "runs": 5, "text_prompt": 128, "text_tokens": 128},
        "untuned": side,
        "tuned": side,
        "operations": {"untuned": [kernel, pick], "tuned": [kernel, pick]},
    }


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/bench_gpu.py; `asked` are the commands it would have run, and commands on "bad" in a path fail."""
    import bench_gpu

    def make(name: str, folder: Path) -> Path:
        if name == "tiny-F16":
            raise bench_gpu.Failed("the file could not be made (exit status 1); the message is above")
        path = folder / f"{name}.gguf"
        path.write_bytes(b"GGUF")
        return path

    def autotune(command: str, path: Path, settings: Any, *options: str) -> dict[str, Any]:
        bench_gpu.asked.append((command, path, settings, options))
        assert path.exists()
        if command == "bench" and "Q8_0" in path.name:
            raise bench_gpu.Failed("autotune bench failed (exit status 2); the message is above")
        return benched() if command == "bench" else {"model": str(path), "database": "/home/me/x.db", "tuned": []}

    monkeypatch.setattr(bench_gpu, "asked", [], raising=False)
    monkeypatch.setattr(bench_gpu, "model_file", make)
    monkeypatch.setattr(bench_gpu, "_autotune", autotune)
    return bench_gpu


@pytest.fixture
def call(script: ModuleType, tmp_path: Path) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(script.main, [*words, "--out", str(tmp_path), "--folder", str(tmp_path)])


def test_a_model_file_that_is_there_already_is_used_and_stays(monkeypatch, tmp_path: Path) -> None:
    import bench_gpu

    monkeypatch.setattr(bench_gpu.files, "FOLDER", tmp_path / "kept")
    kept = tmp_path / "kept" / "qwen3-0.6b-Q4_0.gguf"
    kept.parent.mkdir()
    kept.write_bytes(b"GGUF")
    assert bench_gpu.model_file("qwen3-0.6b-Q4_0", tmp_path) == kept
    monkeypatch.setattr(bench_gpu, "_autotune", lambda command, *_: benched() if command == "bench" else {})
    settings = bench_gpu.Settings("cuda:0", 1.0, 1, tmp_path / "t.db", tmp_path, None, "decode", ())
    assert bench_gpu.measure("qwen3-0.6b-Q4_0", settings)["file_bytes"] == 4 and kept.exists()


def test_another_cache_has_a_file_of_its_own(script: ModuleType, call: Callable[..., Result], tmp_path: Path) -> None:
    """Tuned and measured with it; its row in the tables has its name."""
    assert call("qwen3-0.6b-Q4_0", "--budget", "60", "--cache", "q8_0").exit_code == 0
    document = json.loads((tmp_path / "qwen3-0.6b-Q4_0-cache-q8_0.json").read_text())
    assert document["name"] == "qwen3-0.6b-Q4_0-cache-q8_0" and "--cache=q8_0" in document["command"]
    assert {command for command, *_ in script.asked} == {"tune", "bench"}
    assert all("--cache=q8_0" in options for *_, options in script.asked)
    assert not (tmp_path / "qwen3-0.6b-Q4_0.json").exists()


def test_names_of_models(script: ModuleType) -> None:
    assert script.parse("qwen3-0.6b-Q4_0") == ("qwen3-0.6b", "Q4_0") and script.parse(script.REAL) is None
    assert script.parse("qwen3-8b-BF16") == ("qwen3-8b", "BF16")
    for wrong in ("qwen3-0.6b", "qwen3-0.6b-Q7_0", "gpt-Q4_0", ""):
        with pytest.raises(click.BadParameter, match="is no model; give smollm2"):
            script.parse(wrong)
    assert len(script.DEFAULT) == 7 and all(script.parse(name) or name == script.REAL for name in script.MARKS)


@pytest.mark.parametrize(
    ("chip", "folder"),
    [
        (CHIP, "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"), ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("NVIDIA L40S", "l40s"), ("NVIDIA RTX A6000", "rtx-a6000"), ("NVIDIA GB200", "gb200"), ("A GPU", "a-gpu"),
    ],
)  # fmt: skip
def test_a_folder_for_each_chip(chip: str, folder: str) -> None:
    from peer.facts import chip_folder

    assert chip_folder(chip) == folder


def test_a_file_of_results(script: ModuleType, call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("qwen3-0.6b-Q4_0", "--budget", "60")
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "qwen3-0.6b-Q4_0.json").read_text())
    assert document["versions"]["commit"] == "abc" and document["tune"] == {"tuned": []} and document["file_bytes"] == 4
    assert document["marks"]["decode"] == [802, 930] and document["marks"]["must"] == 3200
    assert "October 2026" in document["marks"]["source"] and str(tmp_path) not in json.dumps(document)
    found = document["summary"]
    assert found["decode_tok_s"] == 4000 and found["deep_tok_s"] == 2000 and found["depth"] == 4096
    assert found["kept"] == pytest.approx(2000 * (1 / 4000 + 4e8 / 3.2e12))
    assert "4,000" in result.stderr and "3,200" in result.stderr and "4.30×" in result.stderr
    (tune, settings), (bench, _) = [(name, settings) for name, _, settings, _ in script.asked]
    assert (tune, bench) == ("tune", "bench") and settings.db.name == "tuning.db" and not settings.folder.exists()
    assert [options for *_, options in script.asked] == [
        ("--budget", "60.0", "--widths", "decode,prompt,batch"), ("--runs", "5")
    ]  # fmt: skip
    assert found["prompt_ms"] == {"16": 2.0, "2048": 51.2} and found["batch_tok_s"] == {"8": 14000.0}
    assert "2.00" in result.stderr and "14,000" in result.stderr


def test_widths_are_passed_on_and_bad_ones_refused(script: ModuleType, call: Callable[..., Result]) -> None:
    assert call("tiny-Q4_0", "--widths", "decode, prompt").exit_code == 0
    assert [options[-2:] for *_, options in script.asked] == [("--widths", "decode,prompt")] * 2
    wrong = call("tiny-Q4_0", "--widths", "wide")
    assert wrong.exit_code == 2 and "no width is called 'wide'" in wrong.stderr


def test_the_peer_is_asked_for_what_ours_did(script: ModuleType, call, tmp_path: Path, monkeypatch) -> None:
    asked: list[tuple[Any, ...]] = []
    best = {"decode_0": 800.0, "decode_4096": 700.0, "prefill": 20000.0, "prompt_16": 1000.0, "batch_8": 3500.0}

    def measure(program: Path, model: Path, *settings: Any) -> dict[str, Any]:
        asked.append((program.name, *settings))
        return {"engine": "llama.cpp", "build": {"build_commit": "b"}, "best_tok_s": best, "settings": {}}

    monkeypatch.setattr(script.llama_bench, "measure", measure)
    peer = tmp_path / "llama-bench"
    peer.touch()
    result = call("qwen3-0.6b-Q4_0", "--peer", str(peer))
    assert result.exit_code == 0, result.stderr
    assert asked == [("llama-bench", [4096, 0], 5, [16, 2048], [8])]
    assert "2.00 (16.00)" in result.stderr and "14,000 (3,500)" in result.stderr and "5.00×" in result.stderr
    from readme_tables import decoding, measured

    chip = tmp_path / "benchmarks" / "h200"
    chip.mkdir(parents=True)
    (tmp_path / "qwen3-0.6b-Q4_0.json").rename(chip / "m.json")
    monkeypatch.setattr(measured, "BENCHMARKS", chip.parent)
    table = decoding.gpu_wide()
    assert "| | prompt of 16, ms | of 2,048, tok/s | 8 texts, tok/s |" in table
    assert "| qwen3-0.6b-Q4_0 | 2.00 (16.0) | 40,000 (20,000) | 14,000 (3,500) |" in table
    assert "Texts of 128 + 128 tokens" in table and "In brackets llama.cpp" in table


def test_a_failure_does_not_stop_the_rest(script: ModuleType, call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("tiny-F16", "tiny-Q8_0", "tiny-Q4_0")
    assert result.exit_code == 1 and "not measured: tiny-F16, tiny-Q8_0; the messages are above" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-Q4_0.json"]
    assert json.loads((tmp_path / "tiny-Q4_0.json").read_text())["marks"] is None
    assert call("tiny-Q4_0", "nonsense").exit_code == 2 and len(script.asked) == 4


def test_marks_hold_for_their_chip_alone(script: ModuleType, call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(script, "_autotune", lambda command, *_: benched("NVIDIA H200") if command == "bench" else {})
    assert call("qwen3-0.6b-Q4_0").exit_code == 0
    assert json.loads((tmp_path / "qwen3-0.6b-Q4_0.json").read_text())["marks"] is None


def test_the_readme_without_and_with_results(script: ModuleType, tmp_path: Path, monkeypatch) -> None:
    import readme
    from readme_tables import beside_decoding, decoding, exactness, measured, products

    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    parts = (
        decoding.gpu, decoding.gpu_token, exactness.gpu_accuracy, readme.gpu_demo, decoding.gpu_wide,
        products.gpu_matmul, beside_decoding.gpu_memory,
    )  # fmt: skip
    assert all("No measurement is committed yet" in part() for part in parts)
    runner = CliRunner()
    runner.invoke(script.main, ["qwen3-0.6b-Q4_0", script.REAL, "--out", str(tmp_path / "h100")])
    rows = {"decode": {"top1": 0.99, "mean_kl": 1e-6}}
    texts = {"tokens": 64, "prompts": 10, "same": 9, "texts": []}
    document = {
        "date": "2026-11-23T00",
        "device": {"chip": CHIP},
        "models": {"smollm2": {"tokens": 256, "engines": {}}},
    }
    document["models"]["smollm2"]["engines"] = {"autotune": rows}  # type: ignore[index]
    (tmp_path / "h100" / "accuracy_smollm2.json").write_text(json.dumps(document | {"texts": texts}))
    (tmp_path / "h100" / "demo.txt").write_text("== This machine\n")
    deeper = json.loads((tmp_path / "h100" / "qwen3-0.6b-Q4_0.json").read_text())
    deeper |= {"name": "ran deeper", "summary": deeper["summary"] | {"depth": 32768}}
    (tmp_path / "h100" / "ran-deeper.json").write_text(json.dumps(deeper))
    table = decoding.gpu()
    assert "| 142 | 2,000 | 40,000" in table and "| 142 | 2,000 (at 32,768) | 40,000" in table
    assert (
        "| qwen3-0.6b-Q4_0 | 802–930 | 4,000 | **4.30×** | 1.60, 50% | 142 | 2,000 | 40,000 (llama.cpp 29,000" in table
    )
    assert "948 (in Q4_0)" in table and "reads 3.20 TB/s" in table and "October 2026" in table
    assert "| down | 28 | 56.0 | 2.00 | 112.0 | 2.00 |" in decoding.gpu_token() and "| – | – |" in decoding.gpu_token()
    assert beside_decoding.starts().count("\n") == 2
    values = {name: {"median": s, "samples": [s] * 5} for name, s in {
        "first_token_s": 2.875, "cpu_s": 7.6, "wall_s": 3.0, "peak_mb": 1025.0}.items()}  # fmt: skip
    started = {"smollm2": {"here": {"0": {"cold": values | {"first_token_s": {"median": 7.2}}, "warm": values}}}}
    document = {"date": "2026-11-30T00", "gpu": CHIP, "device": {"chip": "a processor"}, "models": started}
    (tmp_path / "h100" / "start.json").write_text(json.dumps(document))
    assert f"| smollm2 | {CHIP} | 7.20 | 2.88 | 7.6 | 1,025 |" in beside_decoding.starts()
    assert f"{CHIP}: medians of 5 starts of each kind" in beside_decoding.starts()
    assert "9 of 10 greedy texts of 64 tokens (smollm2) are the CPU's" in exactness.gpu_accuracy()
    assert "| 99.0% | 1.0e-06 |" in exactness.gpu_accuracy() and "== This machine" in readme.gpu_demo()
    text = "a <!-- gpu -->old<!-- /gpu --> b"
    assert readme.filled(text, {"gpu": lambda: "new\\1"}) == "a <!-- gpu -->\nnew\\1\n<!-- /gpu --> b"
    with pytest.raises(ValueError, match="0 places for peer"):
        readme.filled(text, {"peer": lambda: ""})


def test_where_texts_part() -> None:
    from accuracy import same_until

    assert [same_until([1, 2, 3], other) for other in ([1, 2, 3], [1, 5, 3], [0], [1, 2])] == [3, 1, 0, 2]


def test_texts_of_two_backends(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    import accuracy

    class Child:
        def __init__(self, python: str, script: str) -> None:
            self.texts = [[number] * 64 for number in range(10)]

        def __enter__(self) -> "Child":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, op: str, device: str = "", **_: Any) -> dict[str, Any]:
            if op == "open" and device == "cuda:0":
                self.texts[3][7] = -1
            return {"tokens": self.texts}

    monkeypatch.setattr(accuracy, "Child", Child)
    found = accuracy.compare_texts(tiny_model, 1, None, "cuda:0")
    assert (found["same"], found["prompts"], found["tokens"]) == (9, 10, 64)
    assert found["texts"][3] == {"prompt": accuracy.PROMPTS[3], "same_until": 7}


def test_every_file_is_in_the_tree() -> None:
    import readme

    written = (ROOT / "docs" / "architecture.md").read_text()
    assert readme.architecture() in written, "a file or its docstring has changed; run scripts/readme.py"


def test_the_commit_of_a_copy_without_history(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotune.runner import versions

    monkeypatch.setenv("AUTOTUNE_COMMIT", "abc+changes")
    monkeypatch.setattr(versions, "_commit", lambda: None)
    assert versions.versions.__wrapped__()["commit"] == "abc+changes"
    monkeypatch.setattr(versions, "_commit", lambda: "0123")  # a copy may lie in somebody else's checkout
    assert versions.versions.__wrapped__()["commit"] == "abc+changes"
    monkeypatch.delenv("AUTOTUNE_COMMIT")
    assert versions.versions.__wrapped__()["commit"] == "0123"
