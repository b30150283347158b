"""llama.cpp on a GPU: its own programs llama-bench and llama-batched-bench, run on the same file right after ours, and
what they printed.

llama-bench gives decoding after a depth and prompts; llama-batched-bench texts that are decoded together, each after a
prompt of its own. Their options are those of llama.cpp of autumn 2026.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPT, TOKENS = 2048, 128
UBATCHES = (512, 2048)
"""Tokens of a prompt that llama.cpp computes at once: its default, and all that a batch of its default size has."""
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "graph_opt": {"GGML_CUDA_GRAPH_OPT": "1"}}
"""Environments to try: as it comes, and with the option that starts independent kernels beside each other."""
BATCHED = "llama-batched-bench"


class BenchFailed(Exception):
    """llama.cpp's program gave no numbers; the message is one line."""


def measure(
    program: Path, model: Path, depths: Sequence[int], runs: int, prompts: Sequence[int] = (PROMPT,),
    texts: Sequence[int] = (),
) -> dict[str, Any]:  # fmt: skip
    """Tokens per second, each of the best setting, and all samples: of decoding after each depth ("decode_0"), of
    prompts ("prefill" for one of 2,048, "prompt_16"), of all texts together ("batch_8") where there is
    llama-batched-bench beside `program`. Raises BenchFailed.
    """
    found: dict[str, Any] = {}
    batched = program.with_name(program.name.replace("llama-bench", BATCHED))
    several = tuple(texts) if batched != program and batched.exists() else ()
    for name, variables in SETTINGS.items():
        rows = _bench(program, model, depths, runs, prompts, variables)
        build = {key: rows[0].get(key) for key in ("build_commit", "build_number", "gpu_info", "backends")}
        rates = best(rows)
        if several:
            rates |= _batched(batched, model, several, runs, variables)
        found[name] = rates
    everything = {what: max(rates[what]["tok_s"] for rates in found.values()) for what in found["default"]}
    return {"engine": "llama.cpp", "build": build, "best_tok_s": everything, "settings": found}


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of llama-bench's rows the fastest of each kind."""
    rates: dict[str, dict[str, Any]] = {}
    for row in rows:
        samples = row["samples_ts"]
        what, made = _what(row), {"tok_s": rate(samples), "samples": samples, "ubatch": row.get("n_ubatch")}
        if what not in rates or made["tok_s"] > rates[what]["tok_s"]:
            rates[what] = made
    return rates


def rate(samples: Sequence[float]) -> float:
    """The median of llama-bench's repetitions after the first, which captures graphs and loads kernels: a prompt of 16
    tokens takes it twice as long. Ours are timed warm, too."""
    return statistics.median(samples[1:] or samples)


def parse_batched(text: str) -> dict[int, dict[str, float]]:
    """What llama-batched-bench printed with `--output-format jsonl`, by the number of texts: tok_s, of all texts
    together while they are decoded; prompt_tok_s; all_tok_s, prompts and decoded tokens over the whole time; and the
    tokens of a prompt and of a text. Lines that are no result are left out. Raises BenchFailed where none is."""
    found: dict[int, dict[str, float]] = {}
    for line in text.splitlines():
        start = line.find("{")
        try:
            row = json.loads(line[start:]) if start >= 0 else None
        except ValueError:
            continue
        if not isinstance(row, dict) or not {"pl", "pp", "tg", "speed_tg", "speed_pp", "speed"} <= row.keys():
            continue
        found[int(row["pl"])] = {
            "tok_s": float(row["speed_tg"]), "prompt_tok_s": float(row["speed_pp"]), "all_tok_s": float(row["speed"]),
            "prompt": int(row["pp"]), "tokens": int(row["tg"]),
        }  # fmt: skip
    if not found:
        raise BenchFailed(f"{BATCHED} printed no results; is it of a version that knows --output-format jsonl?")
    return found


def _bench(
    program: Path, model: Path, depths: Sequence[int], runs: int, prompts: Sequence[int], variables: dict[str, str]
) -> list[dict[str, Any]]:
    base = [str(program), "-m", str(model), "-ngl", "99", "-fa", "1", "-r", str(runs + 1), "-o", "json"]
    goals = [
        ["-n", "0", "-p", _listed(prompts), "-ub", _listed(UBATCHES)],
        ["-p", "0", "-n", str(TOKENS), "-d", _listed(depths)],
    ]
    return [row for goal in goals for row in json.loads(_run([*base, *goal], variables))]


def _batched(
    program: Path, model: Path, texts: Sequence[int], runs: int, variables: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """A program measures each number of texts once, so it runs several times."""
    words = [
        str(program), "-m", str(model), "-ngl", "99", "-fa", "on", "-c", str(max(texts) * 2 * TOKENS), "-b", "2048",
        "-npp", str(TOKENS), "-ntg", str(TOKENS), "-npl", _listed(texts), "--output-format", "jsonl",
    ]  # fmt: skip
    samples: dict[int, list[dict[str, float]]] = {}
    for _ in range(runs):
        for count, row in parse_batched(_run(words, variables)).items():
            samples.setdefault(count, []).append(row)
    return {
        f"batch_{count}": {
            "tok_s": statistics.median(row["tok_s"] for row in rows), "samples": [row["tok_s"] for row in rows],
            "all_tok_s": statistics.median(row["all_tok_s"] for row in rows),
        }
        for count, rows in samples.items()
    }  # fmt: skip


def _run(words: Sequence[str], variables: dict[str, str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchFailed(f"{Path(words[0]).name} failed (exit status {done.returncode}): {last:.200}")
    return done.stdout


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _what(row: Mapping[str, Any]) -> str:
    if row["n_prompt"]:
        return "prefill" if row["n_prompt"] == PROMPT else f"prompt_{row['n_prompt']}"
    return f"decode_{row['n_depth']}"
