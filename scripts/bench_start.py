"""Measures the start of the engine: from the start of the process until one token is written, and the most memory.

A cold start finds no compiled kernels, no verdicts, no packed weights and no database (empty folders); a warm one finds
what the cold one before it left. The model file is in the system's page cache in both, and Python's bytecode is there.
Sides take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
from bench_busy import ROOT, busy, screen
from peer import facts, files
from rich.table import Table

from autotune.tuning import target as targets

COMMAND = "import sys; from autotune.cli import main; main()"
PROMPT = "The capital of France is"
STARTS = ("cold", "warm")
MB = 1e6


def start(model: Path, tree: Path, cache: Path, device: str) -> dict[str, float | None]:
    """Seconds of wall and of processor time until one token is written and the process has ended, its peak of resident
    memory in MB, and what the command itself says of its first token (None from a build that says nothing)."""
    own = {"AUTOTUNE_CACHE": "cache", "TRITON_CACHE_DIR": "triton", "AUTOTUNE_DB": "tuning.db"}
    path = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **{name: str(cache / file) for name, file in own.items()}, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where autotune is installed
    arguments = ["generate", str(model), "-p", PROMPT, "-n", "1", "--json", "--device", device]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", COMMAND, *arguments], env=environment, cwd=tree,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    written = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise click.ClickException(f"autotune generate failed in {tree}; run it there to see why")
    return {
        "wall_s": round(wall, 3),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "first_token_s": json.loads(written)["timings"].get("first_token_s"),
        "peak_mb": round(used.ru_maxrss * 1024 / MB, 1),
    }


def measure(model: Path, trees: dict[str, Path], loads: range, runs: int, device: str = "cpu") -> dict[str, Any]:
    """Runs by side, number of busy processes and kind of start."""
    found: dict[str, Any] = {side: {n: {kind: [] for kind in STARTS} for n in loads} for side in trees}
    for number in range(runs):
        for others in loads:
            for side in list(trees)[:: 1 if number % 2 else -1]:
                with tempfile.TemporaryDirectory() as cache, busy(others):
                    for kind in STARTS:
                        found[side][others][kind].append(start(model, trees[side], Path(cache), device))
    return found


def summary(runs: list[dict[str, float | None]]) -> dict[str, Any]:
    """Each quantity with its median over the runs that have it; None where none has."""
    known = {name: [run[name] for run in runs if run[name] is not None] for name in runs[0]}
    return {name: {"median": median(v) if v else None, "samples": v} for name, v in known.items()}


def table_of(results: dict[str, Any]) -> Table:
    table = Table(title="from the start of the process to one token")
    for heading in ("model", "side", "busy", "start", "seconds", "CPU seconds", "peak MB"):
        table.add_column(heading, justify="left" if heading in ("model", "side", "start") else "right")
    for name, sides in results.items():
        for side, by_load in sides.items():
            for others, kinds in by_load.items():
                for kind, r in kinds.items():
                    numbers = (r["wall_s"]["median"], r["cpu_s"]["median"], r["peak_mb"]["median"])
                    table.add_row(name, side, others, kind, *(f"{n:,.2f}" for n in numbers))
    return table


@click.command()
@click.option("--other", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@files.models_option
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda:0.")
@click.option("--most", type=click.IntRange(0), default=1, show_default=True, help="Most busy processes.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="[default: benchmarks/start.json, CHIP/start.json there]")
def main(
    other: Path | None, models: tuple[str, ...], device: str, most: int, runs: int, out: Path | None
) -> None:  # fmt: skip
    """Start SmolLM2 (98 MB), Gemma 3 270M (253 MB) and a model of Qwen3-0.6B's sizes; write benchmarks/start.json.

    Example: git worktree add /tmp/before 6f62064 && scripts/bench_start --other /tmp/before
    """
    trees = {name: tree.resolve() for name, tree in (("other", other), ("here", ROOT)) if tree is not None}
    chosen = files.compared_models(models)
    about = facts.here()
    results = {}
    for name, path in chosen.items():
        found = measure(path.resolve(), trees, range(most + 1), runs, device)
        results[name] = {
            side: {str(n): {kind: summary(r) for kind, r in kinds.items()} for n, kinds in by_load.items()}
            for side, by_load in found.items()
        }
    where = {"on": device} if device == "cpu" else {"on": device, "gpu": targets.of(device).device.chip}
    folder = ROOT / "benchmarks" / (facts.chip_folder(where["gpu"]) if "gpu" in where else "")
    document = {
        **about, **where, "runs": runs,
        "bytes": {name: path.stat().st_size for name, path in chosen.items()}, "models": results,
    }  # fmt: skip
    facts.write(out or folder / "start.json", document)
    screen.print(table_of(results))


if __name__ == "__main__":
    main()
