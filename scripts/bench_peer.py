"""Ours against llama.cpp, in one run: the same files, the same threads, alternating, each side at its best settings.

Each side is a process that lives as long as its model and computes only when asked, so nothing is loaded or warmed up
inside a measurement. A round asks each side for one decode and one prefill; every second round the other side begins.
The ratio reported is the median of the rounds' own ratios, which a machine that slows down for a while leaves alone.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from peer import facts, files
from peer.build import VARIABLE, peer_python
from peer.child import Child, WorkerError
from rich.console import Console
from rich.table import Table

from autotune.runner.python_process import environment, python_command
from kernel_templates.cpu import machine
from model.config import ModelConfig
from model.gguf_file import TensorInfo, open_gguf
from model.layer_plan import EMBEDDING
from model.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "autotune" / "precision" / "text.txt"
PROMPT, PREFILL, CONTEXT = 16, 512, 1024
PAUSE_S = 0.3  # both sides let their threads spin for some milliseconds after work; wait until they sleep
GOALS = ("decode", "prefill")
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 110)  # a log has no width; a table needs one


def measure(child: Child, goal: str, tokens: list[int], steps: int) -> float:
    """Tokens per second of one decode of `steps` tokens, or one prefill of 512."""
    time.sleep(PAUSE_S)
    if goal == "decode":
        return steps / child.ask("decode", prompt=tokens[:PROMPT], tokens=steps)["seconds"]
    return PREFILL / child.ask("prefill", tokens=tokens[:PREFILL])["seconds"]


def best_settings(peer: Child, path: Path, threads: int, tokens: list[int]) -> tuple[dict, list[dict[str, Any]]]:
    """Goal -> llama.cpp's fastest settings for it, and everything that was tried (best of two, after a warm-up)."""
    counts = sorted({threads, max(1, threads - 1)})
    tried = []
    for count, flash, repack in itertools.product(counts, (True, False), (True, False)):
        settings = {"threads": count, "flash_attn": flash, "repack": repack}
        peer.ask("open", path=str(path), context=CONTEXT, **settings)
        peer.ask("decode", prompt=tokens[:PROMPT], tokens=4)
        rates = {goal: max(measure(peer, goal, tokens, 32) for _ in range(2)) for goal in GOALS}
        tried.append({**settings, **{f"{goal}_tok_s": round(rate, 1) for goal, rate in rates.items()}})
    names = ("threads", "flash_attn", "repack")
    best = {goal: max(tried, key=lambda row, goal=goal: row[f"{goal}_tok_s"]) for goal in GOALS}
    return {goal: {name: row[name] for name in names} for goal, row in best.items()}, tried


def summary(samples: list[float]) -> dict[str, Any]:
    middle = statistics.median(samples)
    return {"median": middle, "min": min(samples), "max": max(samples), "samples": samples}


def rounded(value: Any) -> Any:
    """Floats with four digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def read_of(tensor: TensorInfo, config: ModelConfig) -> int:
    """Bytes that a token reads of a tensor: of experts' matrices, [experts, rows, columns], those that it uses."""
    used = config.most_experts_used if len(tensor.shape) == 3 else tensor.shape[0]
    return tensor.bytes * used // tensor.shape[0]


def compare(path: Path, python: Path, threads: int, db: str | None, rounds: int, steps: int) -> dict[str, Any]:
    """All measurements on one file."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    text = Tokenizer.from_metadata(file.metadata).encode(TEXT.read_text())
    tokens = (text * (PREFILL // len(text) + 1))[:PREFILL]
    unread = 0 if config.tied else file.tensors[EMBEDDING].bytes  # but for one row
    read = sum(read_of(tensor, config) for tensor in file.tensors.values()) - unread
    with Child(sys.executable, "our_worker.py") as ours, Child(python, "llama_worker.py") as peer:
        opened = ours.ask("open", path=str(path), threads=threads, context=CONTEXT, db=db)
        screen.print("  trying llama.cpp's settings ...")
        settings, tried = best_settings(peer, path, threads, tokens)
        children = {"ours": ours, "peer": peer}
        idle = dict.fromkeys(children, 0.0)
        result: dict[str, Any] = {"file": path.name, "weight_bytes_a_token": read, "our_kernels": opened["kernels"]}
        for goal in GOALS:
            peer.ask("open", path=str(path), context=CONTEXT, **settings[goal])
            rates: dict[str, list[float]] = {"ours": [], "peer": []}
            for number in range(-1, rounds):  # the first round only warms up
                for side in ("ours", "peer") if number % 2 else ("peer", "ours"):
                    other = "peer" if side == "ours" else "ours"
                    before = children[other].cpu_seconds()
                    rate = measure(children[side], goal, tokens, steps)
                    if number >= 0:
                        rates[side].append(rate)
                        idle[other] += children[other].cpu_seconds() - before
                if number >= 0:
                    latest = ", ".join(f"{side} {samples[-1]:.1f}" for side, samples in rates.items())
                    screen.print(f"  {goal} {number + 1}/{rounds}: {latest} tok/s")
            ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["peer"], strict=True)]
            result[goal] = {f"{side}_tok_s": summary(samples) for side, samples in rates.items()}
            result[goal] |= {"ratio": summary(ratios), "peer_settings": settings[goal]}
        for side in children:
            result["decode"][f"{side}_weight_gb_s"] = result["decode"][f"{side}_tok_s"]["median"] * read / 1e9
    return rounded({**result, "cpu_s_while_the_other_side_ran": idle, "peer_settings_tried": tried})


def table_of(models: dict[str, dict[str, Any]], read_gb_s: float) -> Table:
    """One section a model; GB/s are the weights' bytes that decoding reads."""
    table = Table(title=f"tokens per second, median (min–max); memory reads {read_gb_s} GB/s here")
    for name in ("", "autotune", "llama.cpp", "ratio", "GB/s", "GB/s"):
        table.add_column(name, justify="right" if name else "left")
    for name, result in models.items():
        table.add_row(f"[bold]{name}[/]")
        for goal in GOALS:
            row = result[goal]
            rates = [row[f"{side}_tok_s"] for side in ("ours", "peer")]
            cells = [f"{rate['median']:.1f} ({rate['min']:.1f}–{rate['max']:.1f})" for rate in rates]
            speeds = [f"{row[key]:.1f}" if (key := f"{side}_weight_gb_s") in row else "" for side in ("ours", "peer")]
            table.add_row(goal, *cells, f"[bold]{row['ratio']['median']:.2f}×[/]", *speeds)
        table.add_section()
    return table


@click.command()
@click.option(
    "--peer-python", "peer_python_path", help=f"A Python that has xllamacpp or llama_cpp, or 'build'; or ${VARIABLE}."
)
@click.option("--db", help="Tuning database (default: the user's own).")
@click.option(
    "--budget", default=90, show_default=True, help="Seconds to tune each model first; 0: only what is known."
)
@click.option("--rounds", type=click.IntRange(7), default=9, show_default=True)
@click.option(
    "--tokens", "steps", type=click.IntRange(64, 128), default=96, show_default=True, help="A decode's steps."
)
@click.option("--threads", type=click.IntRange(1), default=machine.thread_count, show_default="physical cores")
@files.models_option
@click.option("--out", type=click.Path(path_type=Path), help="Default: benchmarks/cpu.json, cpu_NAME.json for a model.")
def main(
    peer_python_path: str | None, db: str | None, budget: int, rounds: int, steps: int, threads: int,
    models: tuple[str, ...], out: Path | None,
) -> None:  # fmt: skip
    """Measure this engine against llama.cpp and write benchmarks/cpu.json.

    Example: scripts/bench_peer --model gemma --budget 90
    """
    if os.getloadavg()[0] > 0.5:
        screen.print(f"[yellow]load average {os.getloadavg()[0]:.1f}: other work is running; expect wrong rates[/]")
    python, paths = peer_python(peer_python_path), files.compared_models(models)
    if budget:
        for path in paths.values():
            chosen_db = ["--db", db] if db else []
            command = python_command("autotune", "tune", str(path), "--budget", str(budget), *chosen_db)
            if subprocess.run(command, stdout=sys.stderr, env=environment()).returncode:
                raise click.ClickException(f"tuning {path.name} failed; the message is above")
    try:
        with Child(python, "llama_worker.py") as peer:
            document = facts.context(peer, python, measure=True)
        protocol = {"threads": threads, "rounds": rounds, "decode_tokens": steps, "prompt_tokens": PROMPT}
        document |= {"protocol": {**protocol, "prefill_tokens": PREFILL, "context": CONTEXT}, "models": {}}
        for name, path in paths.items():
            screen.print(f"{name}:")
            document["models"][name] = compare(path, python, threads, db, rounds, steps)
    except WorkerError as error:
        raise click.ClickException(str(error)) from None
    facts.write(out or files.results(ROOT / "benchmarks" / "cpu.json", models), document)
    screen.print(table_of(document["models"], document["device"]["read_gb_s"]))


if __name__ == "__main__":
    main()
