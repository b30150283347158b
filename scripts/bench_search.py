"""How good samplers are, on spaces that were measured before: ours, Optuna's and Kernel Tuner's, without a GPU.

Score of a space: a failed configuration counts as the worst valid time; A(k) is the mean over seeds of the best time
after k evaluations, B(k) the exact expectation of the best of k drawn without replacement; the score is the mean over k
of (B(k) - A(k)) / (B(k) - best). 0: as good as random search; 1: the optimum at once.
"""

import json
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from peer import facts

from autotune import UserError
from autotune.dashboard import plot
from autotune.dashboard.page_elements import XY, Axis, Series
from autotune.runner.versions import versions
from autotune.samplers import replay
from autotune.samplers.single_thread import single_thread
from kernel_templates.cpu import machine

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pool", "tpe", "gp", "cmaes", "random")
PEERS = ("genetic_algorithm", "adaptive_tabu_greywolf", "hybrid_vndx", "simulated_annealing")
CLOSE = 1.05
SHOWN = (1, 5, 10, 20, 50, 100, 150, 200)


@dataclass(frozen=True)
class Run:
    """rows: evaluated, in order, new ones only; repeated: asked for again, which costs a peer no evaluation; seconds:
    the sampler's own, a peer's with reading its cache. A proposal that is no row of the space ends the run with an
    error."""

    seed: int
    rows: tuple[int, ...]
    repeated: int
    seconds: float


def times_of(recorded: replay.Recorded) -> np.ndarray:
    """Milliseconds [N]; of what failed, the worst there is."""
    times = np.array([np.nan if seconds is None else 1e3 * seconds for seconds in recorded.seconds])
    return np.where(np.isnan(times), np.nanmax(times), times)


def expected_best(times: np.ndarray, trials: int) -> np.ndarray:
    """[trials]: of the best of 1, 2, ... drawn without replacement.

    The i-th fastest of N is the best of k with probability C(N-1-i, k-1) / C(N, k), i from 0.
    """
    ordered, n = np.sort(times), len(times)
    i = np.arange(n, dtype=np.float64)
    found, chance = [], np.full(n, 1 / n)
    for k in range(1, trials + 1):
        found.append(float(ordered @ chance))
        chance = chance * np.clip(n - i - k, 0, None) / k * (k + 1) / max(n - k, 1)
    return np.array(found)


def best_so_far(times: np.ndarray, rows: Sequence[int], trials: int) -> np.ndarray:
    """[trials]; a run that ended early keeps what it had."""
    best = np.minimum.accumulate(times[list(rows[:trials])])
    return np.concatenate([best, np.full(trials - len(best), best[-1])])


def score(times: np.ndarray, runs: Sequence[Sequence[int]], trials: int) -> float:
    """Of one space. trials must leave a random search something to find."""
    a = np.mean([best_so_far(times, rows, trials) for rows in runs], axis=0)
    b = expected_best(times, trials)
    room = b - times.min()
    return float(np.mean(np.divide(b - a, room, out=np.zeros_like(room), where=room > 1e-12 * b)))


def summary(recorded: replay.Recorded, runs: Sequence[Run], trials: int) -> dict[str, Any]:
    times = times_of(recorded)
    curves = np.array([best_so_far(times, run.rows, trials) for run in runs])
    close = [int(np.argmax(c <= CLOSE * times.min())) + 1 if c[-1] <= CLOSE * times.min() else None for c in curves]
    middle = float(np.median([trials + 1 if k is None else k for k in close]))
    return {
        "score": score(times, [run.rows for run in runs], trials),
        "median_evaluations_to_5_percent": middle if middle <= trials else None,
        "runs_within_5_percent": sum(k is not None for k in close),
        "seeds": len(runs),
        "evaluations": [len(run.rows) for run in runs],
        "repeated": sum(run.repeated for run in runs),
        "ms_per_evaluation": 1e3 * sum(run.seconds for run in runs) / sum(len(run.rows) for run in runs),
        "mean_best_ms": {str(k): float(curves[:, k - 1].mean()) for k in SHOWN if k <= trials},
        "runs": [asdict(run) for run in runs],
    }


def cache_document(recorded: replay.Recorded) -> dict[str, Any]:
    """The space as Kernel Tuner's cache file (its documentation, "cache files")."""
    names = list(recorded.configs[0])
    entries = {}
    for config, seconds in zip(recorded.configs, recorded.seconds, strict=True):
        told = "RuntimeFailedConfig" if seconds is None else 1e3 * seconds
        entries[",".join(str(config[name]) for name in names)] = {**config, "time": told}
    return {
        "device_name": "recorded",
        "kernel_name": "recorded",
        "problem_size": [1],
        "tune_params_keys": names,
        "tune_params": {p.name: list(p.values) for p in recorded.space.parameters},
        "objective": "time",
        "cache": entries,  # last: its reader looks for three closing brackets
    }


def one(path: Path, sampler: str, trials: int, seed: int) -> Run:
    """In a process of its own, with one thread."""
    recorded = replay.read(path)
    with single_thread():
        if sampler in PEERS:
            return _peer(recorded, sampler, trials, seed)
        done = replay.replay(recorded, sampler, trials, seed)
    rows = tuple(dict.fromkeys(done.rows))
    return Run(seed, rows, len(done.rows) - len(rows), done.seconds)


def _peer(recorded: replay.Recorded, strategy: str, trials: int, seed: int) -> Run:
    from kernel_tuner.interface import tune_cache

    random.seed(seed)  # some strategies draw from the global generators, whatever seed they are given
    np.random.seed(seed)
    names = list(recorded.configs[0])
    row_of = {tuple(config[name] for name in names): row for row, config in enumerate(recorded.configs)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.json"
        path.write_text(json.dumps(cache_document(recorded), separators=(",", ":")))
        begun = time.process_time()
        results, _ = tune_cache(
            str(path), strategy=strategy, strategy_options={"max_fevals": trials}, seed=seed, quiet=True
        )
        seconds = time.process_time() - begun
    asked = [row_of[tuple(result[name] for name in names)] for result in results]
    rows = tuple(dict.fromkeys(asked))[:trials]
    return Run(seed, rows, len(asked) - len(set(asked)), seconds)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def draw(document: dict[str, Any], path: Path) -> None:
    """One chart for each space: a line for each sampler, dashed where a colour comes again."""
    charts = []
    for name, space in document["spaces"].items():
        lines = []
        for sampler, found in space["samplers"].items():
            if "mean_best_ms" in found:
                best = ((int(k), ms / space["best_ms"]) for k, ms in found["mean_best_ms"].items())
                points = tuple((float(k), over, f"{sampler}: {over:.3f} after {k}") for k, over in best)
                again = len(lines) >= len(plot.COLOURS)
                lines.append(Series(f"{sampler}{' (dashed)' * again}", "line", points, dashed=again))
        y = Axis("mean best time ÷ optimum", log=True)
        charts.append(XY(name, Axis("evaluations", log=True), y, tuple(lines)))
    plot.to_file(charts, path)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sampler", "samplers", multiple=True, type=click.Choice((*OURS, *PEERS)), help="This one only; again.")
@click.option("--trials", type=click.IntRange(2), default=200, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=25, show_default=True)
@click.option("--gp-seeds", type=click.IntRange(1), default=2, show_default=True, help="Of Optuna's gp, which is slow.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "search.json")
def main(folder: Path, samplers: tuple[str, ...], trials: int, seeds: int, gp_seeds: int, jobs: int, out: Path) -> None:
    """Replay every space in FOLDER, files as `autotune replay` reads them.

    The file is written after each sampler of each space; what it has already, of as many seeds and trials, is not run
    again.

    Example: scripts/bench_search spaces/ --sampler pool --sampler random
    """
    paths = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if not paths:
        raise click.UsageError(f"{folder} has no recorded spaces (*.csv.gz); name the folder that does")
    known = json.loads(out.read_text()) if out.exists() else {}
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["scripts/bench_search", "FOLDER", *sys.argv[2:]]),
        "versions": versions() | {name: _version(name) for name in ("optuna", "kernel_tuner", "cmaes", "scipy")},
        "device": {"chip": machine.detect().chip, "cpus": os.cpu_count()},
        "load_average_1min": os.getloadavg()[0],
        "trials": trials,
        "spaces": known.get("spaces", {}) if known.get("trials") == trials else {},
    }
    with ProcessPoolExecutor(jobs) as workers:
        for sampler in samplers or (*OURS, *PEERS):
            for path in paths:
                try:
                    recorded = replay.read(path)
                except UserError as error:
                    raise click.ClickException(str(error)) from None
                times = times_of(recorded)
                space = document["spaces"].setdefault(
                    path.name, {"configurations": len(times), "best_ms": float(times.min()), "samplers": {}}
                )
                count = min(seeds, gp_seeds) if sampler == "gp" else seeds
                if space["samplers"].get(sampler, {}).get("seeds") == count:
                    continue
                tasks = [workers.submit(one, path, sampler, trials, seed) for seed in range(count)]
                try:
                    found = summary(recorded, [task.result() for task in tasks], trials)
                except Exception as error:  # a peer that fails is told of, and the others go on
                    found = {"error": f"{type(error).__name__}: {error}"[:300]}
                found["commit"] = document["versions"]["commit"]
                found["load_average_1min"] = os.getloadavg()[0]
                space["samplers"][sampler] = found
                facts.write(out, document)
                click.echo(f"{path.name} {sampler}: {found.get('score', found.get('error'))}", err=True)
    draw(document, out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
