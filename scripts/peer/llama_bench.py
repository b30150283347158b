"""llama.cpp on a GPU: its own program llama-bench, run on the same file right after ours, and what it printed."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PROMPT, TOKENS = 2048, 128
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "graph_opt": {"GGML_CUDA_GRAPH_OPT": "1"}}
"""Environments to try: as it comes, and with the option that starts independent kernels beside each other."""


class BenchFailed(Exception):
    """llama-bench gave no numbers; the message is one line."""


def measure(program: Path, model: Path, depths: tuple[int, ...], runs: int) -> dict[str, Any]:
    """Tokens per second of decoding after each depth and of a prompt of 2,048, of the better setting; and all samples.

    Raises BenchFailed.
    """
    found: dict[str, Any] = {}
    for name, variables in SETTINGS.items():
        rows = _run(program, model, depths, runs, variables)
        rates = {_what(row): {"tok_s": row["avg_ts"], "samples": row["samples_ts"]} for row in rows}
        found[name] = rates
        build = {key: rows[0].get(key) for key in ("build_commit", "build_number", "gpu_info", "backends")}
    best = {what: max(rates[what]["tok_s"] for rates in found.values()) for what in found["default"]}
    return {"engine": "llama.cpp", "build": build, "best_tok_s": best, "settings": found}


def _run(
    program: Path, model: Path, depths: tuple[int, ...], runs: int, variables: dict[str, str]
) -> list[dict[str, Any]]:
    base = [str(program), "-m", str(model), "-ngl", "99", "-fa", "1", "-r", str(runs), "-o", "json"]
    goals = [["-n", "0", "-p", str(PROMPT)], ["-p", "0", "-n", str(TOKENS), "-d", ",".join(map(str, depths))]]
    rows: list[dict[str, Any]] = []
    for goal in goals:
        done = subprocess.run([*base, *goal], capture_output=True, text=True, env={**os.environ, **variables})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BenchFailed(f"llama-bench failed (exit status {done.returncode}): {last:.200}")
        rows += json.loads(done.stdout)
    return rows


def _what(row: dict[str, Any]) -> str:
    return "prefill" if row["n_prompt"] else f"decode_{row['n_depth']}"
