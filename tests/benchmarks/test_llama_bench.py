"""What llama.cpp's programs print, in the formats of their sources, and how they are called."""

import json
import stat
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from peer import llama_bench  # noqa: E402
from peer.llama_bench import BenchFailed, best, measure, parse_batched  # noqa: E402


def line(texts: int, speed: float) -> str:
    """A line of llama-batched-bench with --output-format jsonl: whole numbers, and six digits behind the point."""
    whole = {
        "n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 1, "is_pp_shared": 0, "n_gpu_layers": 99,
        "n_threads": 16, "n_threads_batch": 16, "pp": 128, "tg": 128, "pl": texts, "n_kv": 256 * texts,
    }  # fmt: skip
    decoded, read = texts * 128 / speed, texts * 128 / 30000.0
    broken = {
        "t_pp": read, "speed_pp": 30000.0, "t_tg": decoded, "speed_tg": speed, "t": read + decoded,
        "speed": texts * 256 / (read + decoded),
    }  # fmt: skip
    parts = [f'"{name}": {value}' for name, value in whole.items()]
    return "{" + ", ".join([*parts, *(f'"{name}": {value:f}' for name, value in broken.items())]) + "}"


def test_rates_by_the_number_of_texts() -> None:
    printed = (
        f"ggml_cuda_init: found 1 CUDA devices: {{\n\n{line(8, 3812.25)}\n{line(32, 7585.5)}\n\nllama_perf: 1 ms\n"
    )
    found = parse_batched(printed)
    assert list(found) == [8, 32] and found[8]["tok_s"] == 3812.25 and found[32]["tok_s"] == 7585.5
    assert found[8]["prompt"] == found[8]["tokens"] == 128 and found[8]["prompt_tok_s"] == 30000.0
    both = 2 / (1 / 30000.0 + 1 / 3812.25)
    assert found[8]["all_tok_s"] == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize("text", ["", "main: n_kv_max = 8192\n| PP | TG |", "{}", '{"pl": 8}', "[1]", "{nonsense"])
def test_an_output_without_results_is_one_line(text: str) -> None:
    with pytest.raises(BenchFailed, match="printed no results"):
        parse_batched(text)


@pytest.mark.parametrize(
    ("samples", "median"), [([9.0], 9.0), ([2.0, 9.0], 9.0), ([2.0, 8.0, 9.0, 4.0], 8.0), ([9.0, 1.0, 3.0], 2.0)]
)
def test_the_first_repetition_does_not_count(samples: list[float], median: float) -> None:
    assert llama_bench.rate(samples) == median


def test_the_fastest_of_each_kind_counts() -> None:
    rows = [
        {"n_prompt": 2048, "n_gen": 0, "n_depth": 0, "n_ubatch": 512, "avg_ts": 39000.0, "samples_ts": [39000.0]},
        {"n_prompt": 2048, "n_gen": 0, "n_depth": 0, "n_ubatch": 2048, "avg_ts": 44000.0, "samples_ts": [44000.0]},
        {"n_prompt": 16, "n_gen": 0, "n_depth": 0, "n_ubatch": 512, "avg_ts": 900.0, "samples_ts": [900.0]},
        {"n_prompt": 0, "n_gen": 128, "n_depth": 4096, "n_ubatch": 512, "avg_ts": 700.0, "samples_ts": [700.0]},
    ]
    rates = best(rows)
    assert {what: rate["tok_s"] for what, rate in rates.items()} == {
        "prefill": 44000.0, "prompt_16": 900.0, "decode_4096": 700.0
    }  # fmt: skip
    assert rates["prefill"]["ubatch"] == 2048


PROGRAM = """#!{python}
import json, os, sys

words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *words, os.environ.get("GGML_CUDA_GRAPH_OPT")]) + "\\n")
if "llama-batched-bench" in sys.argv[0]:
    if value("-npl") == "64":
        sys.exit("error: failed to create the llama_context")
    print({lines!r})
else:
    rows = [(int(p), 0, 0, 100.0 * int(p)) for p in value("-p").split(",") if int(p)]
    rows += [(0, 128, int(d), 500.0) for d in value("-d").split(",")] if "-d" in words else []
    print(json.dumps([
        dict(build_commit="abc", build_number=1, gpu_info="x", backends="CUDA", n_prompt=p, n_gen=g, n_depth=d,
             n_ubatch=512, avg_ts=rate / 2,
             samples_ts=[rate / 9] + [rate + ("GGML_CUDA_GRAPH_OPT" in os.environ)] * (int(value("-r")) - 1))
        for p, g, d, rate in rows
    ]))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """llama-bench, which prints rows as the real one does, and llama-batched-bench beside it."""
    text = PROGRAM.format(
        python=sys.executable, log=str(tmp_path / "log"), lines=f"{line(8, 4000.0)}\n{line(32, 8000.0)}"
    )
    for name in ("llama-bench", "llama-batched-bench"):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return tmp_path / "llama-bench"


def test_both_programs_run_on_the_file(programs: Path, tmp_path: Path) -> None:
    found = measure(programs, tmp_path / "m.gguf", (0, 4096), 2, (16, 2048), (8, 32))
    assert found["build"]["build_commit"] == "abc" and found["best_tok_s"] == {
        "prompt_16": 1601.0, "prefill": 204801.0, "decode_0": 501.0, "decode_4096": 501.0, "batch_8": 4000.0,
        "batch_32": 8000.0,
    }  # fmt: skip
    assert found["settings"]["default"]["prompt_16"]["samples"] == [pytest.approx(1600 / 9), 1600.0, 1600.0]
    assert found["settings"]["default"]["batch_8"]["samples"] == [4000.0, 4000.0]
    calls = [json.loads(text) for text in (tmp_path / "log").read_text().splitlines()]
    assert [(call[0], call[-1]) for call in calls] == [
        (name, opt) for opt in (None, "1") for name in ["llama-bench"] * 2 + ["llama-batched-bench"] * 2
    ]
    batched = calls[2]
    assert batched[batched.index("-c") + 1] == str(32 * 256) and batched[batched.index("-npl") + 1] == "8,32"
    assert batched[batched.index("--output-format") + 1] == "jsonl"


def test_without_llama_batched_bench_the_rest_is_measured(programs: Path, tmp_path: Path) -> None:
    programs.with_name("llama-batched-bench").unlink()
    found = measure(programs, tmp_path / "m.gguf", (0,), 1, texts=(8,))
    assert set(found["best_tok_s"]) == {"prefill", "decode_0"}


def test_a_program_that_fails_is_one_line(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match=r"llama-batched-bench failed \(exit status 1\): error: failed to create"):
        measure(programs, tmp_path / "m.gguf", (0,), 1, texts=(64,))
    assert llama_bench.SETTINGS.keys() == {"default", "graph_opt"}
