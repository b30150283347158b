"""Tunes problems while other work comes and goes, then measures each winner alone beside the untuned default.

What is shown: a busy machine costs time, but never makes a winner that is slower than what it replaces.
"""

import math
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from peer import facts, files

from autotune.runner.cpu_candidate import OpenProblem, working_set
from autotune.tuning import sequential, target
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates.cpu import machine
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.problems import model_problems
from tuning_db import open_db

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 31
WORST = 1.02
"""A winner may take this share of the default's time: what two measurements of one configuration differ by."""


@contextmanager
def random_load(seed: int, most: int) -> Iterator[None]:
    """0 to `most` processes that never rest, another number of them every 0.3 to 2 seconds."""
    stop, chance = threading.Event(), random.Random(seed)

    def work() -> None:
        while not stop.is_set():
            started = [
                subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(chance.randint(0, most))
            ]
            stop.wait(chance.uniform(0.3, 2.0))
            for process in started:
                process.kill()
                process.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tuned(problem: Problem, seconds: float, seed: int, most: int) -> tuple[Config, str]:
    """The winner of a search under load, and what the tuner says of it."""
    settings = TuneSettings(budget_s=seconds, seed=seed)
    with (
        tempfile.TemporaryDirectory(prefix="autotune-") as folder,
        open_db(Path(folder) / "tuning.db") as db,
        random_load(seed, most),
    ):
        (result,) = sequential.tune({problem: 1}, db, settings)
    return Config(result.config), result.reason


def ratio_alone(problem: Problem, winner: Config, default: Config, pool: ThreadPool, seed: int) -> float:
    """The winner's time over the default's: median of ROUNDS pairs, the order changing from pair to pair."""
    opened = OpenProblem(problem, pool, seed)
    ready = [opened.prepare(config, working_set()) for config in (winner, default)]
    for candidate in ready:
        candidate.sample()
    logs = []
    for number in range(ROUNDS):
        times = {side: ready[side].sample() for side in ((0, 1) if number % 2 else (1, 0))}
        logs.append(math.log(times[0] / times[1]))
    return math.exp(statistics.median(logs))


@click.command()
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=6, show_default=True, help="Budget of a search.")
@click.option("--most", type=click.IntRange(0), default=2, show_default=True, help="Most busy processes at once.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "winners.json", show_default=False
)
def main(runs: int, seconds: float, most: int, seed: int, out: Path) -> None:
    """Tune problems of SmolLM2 under random load; fail if a winner is slower alone than the default by more than 2%.

    Example: scripts/check_winners --runs 50
    """
    about, file = facts.here(), open_gguf(files.real_model())
    problems = list(model_problems(ModelConfig.from_gguf(file), file))
    rows: list[dict[str, Any]] = []
    with ThreadPool(machine.thread_count()) as pool:
        for number in range(runs):
            problem = problems[number % len(problems)]
            default = target.cpu().space(problem).default
            winner, reason = tuned(problem, seconds, seed + number, most)
            ratio = 1.0 if winner == default else ratio_alone(problem, winner, default, pool, seed)
            rows.append({"problem": problem.key, "kept_default": winner == default, "ratio": round(ratio, 4)})
            click.echo(f"{number + 1}/{runs} {problem.key}: {ratio:.3f} of the default's time; {reason}", err=True)
    slower = [row for row in rows if row["ratio"] > WORST]
    document = {
        **about,
        "slower_than_the_default": len(slower),
        "kept_the_default": sum(row["kept_default"] for row in rows),
        "geometric_mean": round(math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows)), 4),
        "runs": rows,
    }
    facts.write(out, document)
    click.echo(
        f"{len(rows)} winners: {document['kept_the_default']} kept the default, {len(slower)} slower than it by more "
        f"than {WORST - 1:.0%}, geometric mean {document['geometric_mean']} of its time"
    )
    sys.exit(bool(slower))


if __name__ == "__main__":
    main()
