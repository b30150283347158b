"""Compares how two builds of this project tune a model on a GPU within the same seconds, alternating in one run.

Each run begins with nothing: an empty database, an empty $AUTOTUNE_CACHE, an empty cache of Triton's. Counted are the
trials of the searches (the final comparisons are not) and the seconds from the start of the command to the first of
them. Then the winners of both are timed in turn, in one process, by this build.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
from bench_builds import ROOT, SIDES, commit_of
from peer import facts
from rich.console import Console
from rich.table import Table

from autotune.runner.protocol import FinalistsCompared
from autotune.runner.versions import versions
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.tuning import target as targets
from autotune.tuning.candidate_runner import CandidateRunner, TuneError, generate_inputs_ahead
from autotune.tuning.verdict import Compared
from kernel_templates import registry
from kernel_templates.space import Config
from tuning_db.records import Objective

COMMAND = "import sys; from autotune.cli import main; main()"
COUNTED = """SELECT problems.key, run_trials.outcome, count(*), min(run_trials.created_at) FROM run_trials
    JOIN runs ON runs.id = run_trials.run_id JOIN problems ON problems.id = runs.problem_id
    WHERE run_trials.kind = 'search' GROUP BY problems.key, run_trials.outcome"""
WON = """SELECT problems.key, winners.config, winners.median_ns FROM winners
    JOIN problems ON problems.id = winners.problem_id WHERE winners.replaced_at IS NULL"""
ROUNDS = 21  # of a comparison of two winners
SAME = 1.01  # times the other's time: as fast, for what is prepared twice differs by that much (docs/log.md)
COMPILE_S = 60.0
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 140)


@dataclass
class Tuning:
    """One run: trials by problem and outcome, seconds to the first one, winners' configurations and nanoseconds."""

    wall_s: float
    first_s: float | None
    trials: dict[str, Counter[str]] = field(default_factory=dict)
    winners: dict[str, tuple[Config, float]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(sum(outcomes.values()) for outcomes in self.trials.values())


def tuned(model: Path, tree: Path, arguments: list[str], cache: Path) -> Tuning:
    """Tune with the build in `tree`, from an empty database. Raises click.ClickException when it fails."""
    database = Path(tempfile.mkdtemp()) / "tuning.db"
    environment = {
        **os.environ, "AUTOTUNE_CACHE": str(cache / "autotune"), "TRITON_CACHE_DIR": str(cache / "triton"),
        "PYTHONPATH": os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }  # fmt: skip
    begun, start = datetime.now(UTC), time.perf_counter()
    words = [sys.executable, "-P", "-c", COMMAND, "tune", str(model), "--db", str(database), "--json", *arguments]
    done = subprocess.run(words, env=environment, cwd=tree, capture_output=True, text=True)
    found = Tuning(time.perf_counter() - start, None)
    if done.returncode:
        raise click.ClickException(f"autotune tune failed in {tree}: {done.stderr.strip()[-400:]}")
    first = []
    with sqlite3.connect(database) as db:
        for key, outcome, count, at in db.execute(COUNTED):
            found.trials.setdefault(key, Counter())[outcome] += count
            first.append(datetime.fromisoformat(at))
        for key, config, ns in db.execute(WON):
            found.winners[key] = Config(json.loads(config)), ns
    found.first_s = (min(first) - begun).total_seconds() if first else None
    return found


def in_turn(device: str, winners: Mapping[str, Mapping[str, Config]]) -> dict[str, float]:
    """By problem, the time of this build's winner as a share of the other's, the two timed in turn. winners: by problem
    and side. A problem whose winners cannot be compared, for one build's templates differ, is left out."""
    where, ratios = targets.of(device), {}
    with WorkerPool(where.compilers, where.separate_measurer, where.program, target=where.name) as pool:
        runners = {}
        generate_inputs_ahead([registry.parse_problem(key) for key in winners], where, pool, 0)
        for key, sides in winners.items():
            problem = registry.parse_problem(key)
            runner = runners[key] = CandidateRunner(problem, where, pool, seed=0)
            for config in dict.fromkeys(sides.values()):
                runner.compile(config)
        for key, sides in winners.items():
            runner, until = runners[key], time.monotonic() + COMPILE_S
            while runner.compiling and time.monotonic() < until:
                runner.compiled(1.0)
            if sides["other"] == sides["here"]:
                ratios[key] = 1.0
                continue
            configs = [sides["other"], sides["here"]]
            try:
                runner.await_inputs()
                runner.open()
                reply: FinalistsCompared = runner.compare_finalists(configs, ROUNDS)
            except (TuneError, WorkerDied, WorkerTimedOut) as error:
                screen.print(f"{key}: {error}")
                continue
            finally:
                runner.forget()
            ratios[key] = Compared.of(configs, reply).rounds(Objective.TIME).ratio(configs[1], configs[0])
    return ratios


def compare(
    model: Path, trees: Mapping[str, Path], device: str, arguments: list[str], rounds: int, warm: bool,
    timelines: Path | None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What all rounds so far gave, after each."""
    runs: dict[str, list[Tuning]] = {side: [] for side in SIDES}
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as caches:
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                cache = Path(caches) / (side if warm else f"{side}-{number}")
                timeline = [] if timelines is None else ["--timeline", str(timelines / f"{side}-{number}.json")]
                runs[side].append(tuned(model, trees[side], [*arguments, *timeline], cache))
                last = runs[side][-1]
                screen.print(f"{side}: {last.count} trials, the first after {last.first_s} s, {last.wall_s:.1f} s")
            both = {side: runs[side][-1].winners for side in SIDES}
            winners = {
                key: {side: both[side][key][0] for side in SIDES} for key in both["here"] if key in both["other"]
            }
            for key, ratio in in_turn(device, winners).items():
                ratios.setdefault(key, []).append(ratio)
            yield _summary(runs, ratios)


def _summary(runs: Mapping[str, list[Tuning]], ratios: Mapping[str, list[float]]) -> dict[str, Any]:
    def each(value: Callable[[Tuning], Any]) -> dict[str, list[Any]]:
        return {side: [value(run) for run in runs[side]] for side in SIDES}

    problems = {
        key: {
            "trials": each(lambda run, key=key: dict(run.trials.get(key, {}))),
            "winner_ns": each(lambda run, key=key: run.winners[key][1] if key in run.winners else None),
            "ratio": [round(ratio, 4) for ratio in ratios.get(key, [])],
        }
        for key in runs["here"][-1].trials
    }
    return {
        "trials": each(lambda run: run.count), "first_s": each(lambda run: run.first_s),
        "wall_s": each(lambda run: round(run.wall_s, 1)), "problems": problems,
    }  # fmt: skip


def table_of(document: Mapping[str, Any]) -> Table:
    result = document["result"]
    firsts = {side: ", ".join(f"{s:.1f}" for s in result["first_s"][side]) for side in SIDES}
    title = (
        f"{document['other']} → {document['here']}: trials {result['trials']['other']} → {result['trials']['here']}, "
        f"the first after {firsts['other']} → {firsts['here']} s"
    )
    table = Table(title=title)
    for heading in ("problem", "trials", "", "winner µs", "", "in turn, here / other"):
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    for key, about in result["problems"].items():
        counts = {side: ", ".join(str(sum(run.values())) for run in about["trials"][side]) for side in SIDES}
        best = {
            side: ", ".join("–" if ns is None else f"{ns / 1e3:.2f}" for ns in about["winner_ns"][side])
            for side in SIDES
        }
        ratios = ", ".join(f"{r:.3f}" for r in about["ratio"])
        table.add_row(key, counts["other"], counts["here"], best["other"], best["here"], ratios)
    good = sum(bool(p["ratio"]) and median(p["ratio"]) <= SAME for p in result["problems"].values())
    table.caption = f"as fast as the other's or faster: {good} of {len(result['problems'])}"
    return table


@click.command()
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--budget", type=float, default=60.0, show_default=True, help="Seconds of each run.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of each build.")
@click.option("--widths", default="decode,prompt", show_default=True)
@click.option("--warm", is_flag=True, help="A build's later runs find the compiled kernels of its earlier ones.")
@click.option(
    "--timelines",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder for a timeline of each run.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File of the results.")
def main(
    other: Path, model: Path, device: str, budget: float, rounds: int, widths: str, warm: bool,
    timelines: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Tune MODEL by this checkout and by the one in the folder OTHER.

    Example: git worktree add /tmp/before 6f62064 && scripts/bench_trials /tmp/before qwen3-0.6b.gguf
    """
    trees = {"other": other.resolve(), "here": ROOT}
    arguments = ["--device", device, "--budget", str(budget), "--widths", widths]
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"scripts/bench_trials OTHER {model.name} {' '.join(arguments)} --rounds {rounds}"
        + (" --warm" if warm else ""),
        "versions": versions(),
        "other": commit_of(trees["other"]),
        "here": versions().get("commit", "unknown"),
        "device": targets.of(device).device.chip,
        "cores": targets.cores(),
    }
    for result in compare(model.resolve(), trees, device, arguments, rounds, warm, timelines):
        document["result"] = result
        if out:
            facts.write(out, document)
        screen.print(table_of(document))


if __name__ == "__main__":
    main()
