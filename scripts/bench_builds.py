"""Compares two builds of this project on the same model files: decode (also after a text) and prompt speed, alternating
in one run.

What a change costs or brings cannot be told from two runs: machines drift. Here both builds are loaded at once, each in
a process of its own, and take turns in AB BA order; the ratio of a round is what counts. Neither tunes: both run what
comes with them, or one database that both can read.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
from make_model import QUANTS, SHAPES
from peer import facts, files
from peer.child import Child
from rich.console import Console
from rich.table import Table

from autotune.runner.versions import versions

ROOT = Path(__file__).resolve().parent.parent
PROMPT = [(7919 * i) % 997 + 3 for i in range(2048)]  # any tokens: speed does not depend on which
SHORT = 16  # tokens before those that are decoded, where no depth says otherwise
SIDES = ("other", "here")
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 140)


def commit_of(tree: Path) -> str:
    """The commit of a checkout, or what a copy without history says of itself in a file COMMIT."""
    if (tree / "COMMIT").exists():
        return (tree / "COMMIT").read_text().strip()
    words = ("git", "-C", str(tree), "rev-parse", "--short=12", "HEAD")
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


def compare(
    path: Path,
    trees: Mapping[str, Path],
    device: str,
    rounds: int,
    tokens: int,
    prompt: int,
    depths: Sequence[int] = (),
) -> dict[str, Any]:
    """Rates in tokens per second by side, and the rounds' ratios here / other. depths: decoded after so many tokens as
    well."""
    known = os.environ.get("PYTHONPATH", "")
    sides = {
        side: Child(sys.executable, "our_worker.py", {"PYTHONPATH": f"{tree}{os.pathsep}{known}"})
        for side, tree in trees.items()
    }
    texts_before = {"decode": PROMPT[:SHORT]} | {
        after(depth): (PROMPT * (depth // len(PROMPT) + 1))[:depth] for depth in depths
    }
    context = max(4096, max(depths, default=0) + tokens + 1)
    rates: dict[str, dict[str, list[float]]] = {
        goal: {side: [] for side in SIDES} for goal in (*texts_before, "prompt")
    }
    texts: dict[str, list[int]] = {}
    threads = len(os.sched_getaffinity(0))
    with sides["other"], sides["here"]:
        for child in sides.values():
            child.ask("open", path=str(path), threads=threads, context=context, db=None, device=device)
        for number in range(rounds + 1):  # the first warms up
            for side in SIDES if number % 2 else SIDES[::-1]:
                for goal, before in texts_before.items():
                    made = sides[side].ask("decode", prompt=before, tokens=tokens)
                    if goal == "decode":
                        texts[side] = made["text"]
                    if number:
                        rates[goal][side].append(made["steps"] / made["seconds"])
                read = sides[side].ask("prefill", tokens=PROMPT[:prompt])
                if number:
                    rates["prompt"][side].append(prompt / read["seconds"])
    return {"same_text": texts["here"] == texts["other"]} | {goal: _summary(rates[goal]) for goal in rates}


def after(depth: int) -> str:
    """What decoding after so many tokens is called."""
    return f"decode after {depth:,}"


def _summary(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    ratios = [here / other for here, other in zip(rates["here"], rates["other"], strict=True)]
    spread = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    sides = {
        side: {"median": round(median(rates[side]), 1), "samples": [round(r, 1) for r in rates[side]]} for side in SIDES
    }
    return {**sides, "ratio": {name: round(value, 4) for name, value in spread.items()}}


def table_of(document: Mapping[str, Any]) -> Table:
    table = Table(title=f"{document['other']} → {document['here']}, tokens per second")
    for heading in ("model", "goal", "other", "here", "ratio", "least", "most", "same text"):
        table.add_column(heading, justify="left" if heading in ("model", "goal") else "right")
    for name, result in document["models"].items():
        for goal in (name for name in result if name != "same_text"):
            r, ratio = result[goal], result[goal]["ratio"]
            table.add_row(
                name, goal, f"{r['other']['median']:,.0f}", f"{r['here']['median']:,.0f}", f"{ratio['median']:.3f}",
                f"{ratio['min']:.3f}", f"{ratio['max']:.3f}", "yes" if result["same_text"] else "no",
            )  # fmt: skip
    return table


@click.command()
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Decoded in a round.")
@click.option("--depth", "depths", type=click.IntRange(min=1), multiple=True, help="Also decode after so many tokens.")
@click.option(
    "--prompt", type=click.IntRange(1, len(PROMPT)), default=2048, show_default=True, help="Tokens of a prompt."
)
@click.option("--out", type=click.Path(path_type=Path), help="File of the results.")
def main(
    other: Path, models: tuple[str, ...], device: str, rounds: int, tokens: int, depths: tuple[int, ...], prompt: int,
    out: Path | None,
) -> None:  # fmt: skip
    """Run this checkout beside the one in the folder OTHER on each MODEL, a shape and a format of
    scripts/make_model.py or a name of peer/files.py such as smollm2, or a file.

    Example: git worktree add /tmp/before 6f62064 && scripts/bench_builds /tmp/before qwen3-0.6b-Q4_0
    """
    trees = {"other": other.resolve(), "here": ROOT}
    options = [f"--device={device}", f"--rounds={rounds}", f"--tokens={tokens}", f"--prompt={prompt}"]
    options += [f"--depth={depth}" for depth in depths]
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["scripts/bench_builds", "OTHER", *models, *options]),
        "versions": versions(),
        "other": commit_of(trees["other"]),
        "here": versions().get("commit", "unknown"),
        "device": {"chip": _chip(device)},
        "settings": {"rounds": rounds, "tokens": tokens, "prompt": prompt, "depths": list(depths)},
        "models": {},
    }
    for name in models:
        shape, _, quant = name.rpartition("-")
        made = shape in SHAPES and quant in QUANTS
        path = files.made_model(shape, quant) if made else files.one_model(name)[1]
        document["models"][name] = compare(path, trees, device, rounds, tokens, prompt, depths)
        if out:
            facts.write(out, document)
    screen.print(table_of(document))


def _chip(name: str) -> str:
    from autotune.tuning import target

    return target.of(name).device.chip


if __name__ == "__main__":
    main()
