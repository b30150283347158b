"""A mixture of experts larger than a stated limit of GPU memory: what decoding does with its experts split between GPU
and host by measured times, with nearly all of them at the host, and on the processor alone.

The fourth side, a GPU that gets each layer's experts copied for every token, is reckoned and not run: the copies that
were timed when the model was opened, one for each layer that the limit leaves with the host, and nothing else.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_gpu
import click
from peer import facts
from rich.console import Console
from rich.table import Table

from autotune.runner.python_process import environment, python_command
from model.expert_placement import layers_of

ROOT = Path(__file__).resolve().parent.parent
screen = Console(highlight=False, width=120)

SPLIT, HOST, CPU = "split", "at the host", "processor alone"


def commands(limit: str, least: str, device: str, runs: int) -> dict[str, list[str]]:
    """Options of `autotune bench`, by the side that they measure."""
    common = ["--widths", "decode", "--depth", "0", "--runs", str(runs)]
    on_gpu = ["--device", device, "--prompt", "512", "--tokens", "64", *common]
    return {
        SPLIT: ["--gpu-memory", limit, *on_gpu],
        HOST: ["--gpu-memory", least, *on_gpu],
        CPU: ["--prompt", "64", "--tokens", "32", *common],
    }


def summary(benched: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tokens per second of each side, of documents of `autotune bench --json`; and what was decided by which times."""
    rows = {side: document["tuned"]["decode"]["0"] for side, document in benched.items()}
    experts = benched[SPLIT]["settings"]["experts"]["tuned"]
    at_host = layers_of(experts["host"]["layers"])
    copies_s = at_host * experts["copy_ms"] / 1e3 if experts["copy_ms"] is not None else None
    return {
        "decode_tok_s": {side: row["tok_s"] for side, row in rows.items()},
        "decode_tok_s_range": {side: row["tok_s_range"] for side, row in rows.items()},
        "prompt_tok_s": {side: document["tuned"]["prefill_tok_s"] for side, document in benched.items()},
        "copied_for_every_token_tok_s": None if copies_s is None else 1 / copies_s,
        "experts": experts,
        "limits": {side: benched[side]["settings"].get("gpu_memory") for side in benched},
    }


def table_of(found: Mapping[str, Any]) -> Table:
    table = Table(title="decoding a mixture larger than the GPU memory it may take")
    for heading in ("experts", "tok/s", "from–to"):
        table.add_column(heading, justify="left" if heading == "experts" else "right")
    for side, rate in found["decode_tok_s"].items():
        low, high = found["decode_tok_s_range"][side]
        table.add_row(side, f"{rate:.1f}", f"{low:.1f}–{high:.1f}")
    if (copied := found["copied_for_every_token_tok_s"]) is not None:
        table.add_row("copied for every token (reckoned)", f"< {copied:.1f}", "")
    return table


def measure(path: Path, limit: str, least: str, device: str, runs: int) -> dict[str, Any]:
    """The documents of all sides. Raises click.ClickException when one does not run."""
    benched = {}
    for side, options in commands(limit, least, device, runs).items():
        screen.print(f"{side}: autotune bench {' '.join(options)}")
        words = python_command("autotune", "bench", str(path), *options, "--json")
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
        if done.returncode:
            raise click.ClickException(f"autotune bench failed (exit status {done.returncode}); the message is above")
        benched[side] = json.loads(done.stdout)
    return benched


@click.command()
@click.argument("name", default="qwen3-30b-a3b-Q4_K_M", metavar="[MODEL]")
@click.option("--gpu-memory", "limit", default="8GB", show_default=True, help="The limit.")
@click.option("--least", default="3GB", show_default=True, help="A limit that leaves room for next to no experts.")
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions; medians count.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the model file is made.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: benchmarks/CHIP/experts.json]")
def main(name: str, limit: str, least: str, device: str, runs: int, folder: Path | None, out: Path | None) -> None:
    """Measure MODEL, a shape and a format as of scripts/bench_gpu (qwen3-30b-a3b-Q4_K_M if none is given).

    Example: scripts/bench_experts gpt-oss-20b-MXFP4_MOE --gpu-memory 6GB
    """
    bench_gpu.parse(name)
    with tempfile.TemporaryDirectory(prefix="autotune-", dir=folder) as made:
        try:
            path = bench_gpu.model_file(name, Path(made))
        except bench_gpu.Failed as error:
            raise click.ClickException(f"{name}: {error}") from None
        benched = measure(path, limit, least, device, runs)
    found = summary(benched)
    screen.print(table_of(found))
    target = out or ROOT / "benchmarks" / facts.chip_folder(benched[SPLIT]["device"]["chip"]) / "experts.json"
    here = facts.here()
    facts.write(target, {"date": here["date"], "command": here["command"], "name": name, "host": here["device"],
                         "versions": benched[SPLIT]["versions"], "device": benched[SPLIT]["device"], "result": found,
                         "sides": benched})  # fmt: skip
    screen.print(f"written to {target}")


if __name__ == "__main__":
    main()
