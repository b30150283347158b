"""Measures decode and prompt speed while other processes need the cores, this build beside another or beside llama.cpp.

Every side is loaded once, in a process of its own, and the sides take turns within a round: alone, beside one process
that never rests, beside two. What counts is the share of a side's own speed alone that is left.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
from peer import facts, files
from peer.build import peer_python
from peer.child import Child
from rich.console import Console
from rich.table import Table

from kernel_templates.cpu import machine

ROOT = Path(__file__).resolve().parent.parent
PROMPT = [(7919 * i) % 997 + 3 for i in range(512)]  # any tokens: speed does not depend on which
CONTEXT = 1024
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 140)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes compute for as long as this is held."""
    started = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(sides: dict[str, Child], loads: range, rounds: int, tokens: int, prompt: int) -> dict[str, Any]:
    """Tokens per second, by side, goal and number of busy processes: a list with one rate a round."""
    rates: dict[str, Any] = {name: {goal: {n: [] for n in loads} for goal in ("decode", "prompt")} for name in sides}
    for number in range(rounds):
        for others in loads:
            with busy(others):
                for name in list(sides)[:: 1 if number % 2 else -1]:
                    made = sides[name].ask("decode", prompt=PROMPT[:16], tokens=tokens)
                    read = sides[name].ask("prefill", tokens=PROMPT[:prompt])
                    rates[name]["decode"][others].append(round(made["steps"] / made["seconds"], 2))
                    rates[name]["prompt"][others].append(round(prompt / read["seconds"], 2))
    return rates


def summary(rates: dict[str, Any]) -> dict[str, Any]:
    """With each list its median, and that median's share of the one alone."""
    return {
        name: {
            goal: {
                str(others): {
                    "median": median(values), "of_alone": round(median(values) / median(by_load[0]), 3),
                    "samples": values,
                }
                for others, values in by_load.items()
            }
            for goal, by_load in goals.items()
        }
        for name, goals in rates.items()
    }  # fmt: skip


def table_of(results: dict[str, Any]) -> Table:
    table = Table(title="tokens per second beside busy processes")
    for heading in ("side", "goal", "busy", "tok/s", "of alone"):
        table.add_column(heading, justify="left" if heading in ("side", "goal") else "right")
    for name, goals in results.items():
        for goal, by_load in goals.items():
            for others, r in by_load.items():
                table.add_row(name, goal, others, f"{r['median']:,.1f}", f"{r['of_alone']:.0%}")
    return table


@click.command()
@click.option("--other", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--peer", metavar="PYTHON", help="llama.cpp too: a Python that has it, or 'build', or '.' for this one.")
@click.option("--threads", type=click.IntRange(1), default=machine.thread_count, show_default="physical cores")
@click.option("--most", type=click.IntRange(1), default=2, show_default=True, help="Most busy processes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="Decoded in a round.")
@click.option("--prompt", type=click.IntRange(4, len(PROMPT)), default=256, show_default=True, help="Its tokens.")
@click.option("--model", default="smollm2", show_default=True, help=f"{', '.join(files.MODELS)} or a GGUF file.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "busy.json", show_default=False)
def main(
    other: Path | None, peer: str | None, threads: int, most: int, rounds: int, tokens: int, prompt: int, model: str,
    out: Path,
) -> None:  # fmt: skip
    """Run a model alone and beside processes that never rest; write benchmarks/busy.json.

    Example: git worktree add /tmp/before 6f62064 && scripts/bench_busy --other /tmp/before
    """
    measured, path = files.one_model(model)
    about, theirs = facts.here(), None
    with ExitStack() as stack:
        sides: dict[str, Child] = {}
        for name, tree in (("other", other), ("here", ROOT)):
            if tree is not None:
                known = os.environ.get("PYTHONPATH", "")
                child = Child(sys.executable, "our_worker.py", {"PYTHONPATH": f"{tree.resolve()}{os.pathsep}{known}"})
                sides[name] = stack.enter_context(child)
                child.ask("open", path=str(path), threads=threads, context=CONTEXT, db=None)
        if peer:
            python = peer_python(None if peer == "." else peer)
            sides["llama.cpp"] = stack.enter_context(Child(python, "llama_worker.py"))
            theirs = sides["llama.cpp"].ask("about")
            sides["llama.cpp"].ask("open", path=str(path), threads=threads, context=CONTEXT)
        for child in sides.values():  # what is compiled or loaded at the first call
            child.ask("decode", prompt=PROMPT[:16], tokens=4)
            child.ask("prefill", tokens=PROMPT[:prompt])
        results = summary(measure(sides, range(most + 1), rounds, tokens, prompt))
    document = {
        **about,
        "model": measured,
        "settings": {"rounds": rounds, "tokens": tokens, "prompt": prompt, "threads": threads},
        "sides": results,
        **({"peer": theirs} if theirs else {}),
    }
    facts.write(out, document)
    screen.print(table_of(results))


if __name__ == "__main__":
    main()
