"""See scripts/bench_transfer. What is known of another chip, or of another shape, as the beginning of a search.

Each problem is searched twice from nothing of its own: cold, and warm with the records given. Counted are evaluations
until the median is within 5% of the best that the cold search found in all of its own.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune.runner.versions import versions
from autotune.runner.worker_pool import WorkerPool
from autotune.tuning import parallel
from autotune.tuning import target as targets
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import Session, TuneSettings
from kernel_templates import registry
from kernel_templates.attention.problem import Attention
from kernel_templates.ffn.problem import Ffn
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.problem import Problem
from tuning_db import TuningDB, jsonl, open_db, shipped, stored_records
from tuning_db.records import TrialKind

ROOT = Path(__file__).resolve().parent.parent
WITHIN = 1.05
AIM_EVALUATIONS, AIM_SHARE = 10, 0.8
ACT = "int16"
WIDE, NARROW = 4096, (2560, 3072)
"""Widths of the models whose shapes are tuned first, and then; nothing was made to fit the last one."""


@dataclass(frozen=True)
class Outcome:
    """times: medians in the order of evaluation, None for failures; source: what the search began with."""

    problem: Problem
    times: tuple[float | None, ...]
    source: str

    def evaluations_to(self, ns: float) -> int | None:
        return next((n for n, t in enumerate(self.times, 1) if t is not None and t <= ns), None)


def shapes(hidden: int) -> list[Problem]:
    """The problems of one layer and the head of a model of this width, in Q4_0, heads of 128."""
    heads, ffn = hidden // 128, 3 * hidden
    return [
        Matvec(hidden, hidden, "Q4_0", ACT),
        Ffn(hidden, ffn, "Q4_0", "Q4_0", "Q4_0", ACT),
        NormQkvRope(hidden, heads, max(1, heads // 4), 128, 128, 1, "Q4_0", "Q4_0", "Q4_0", ACT),
        Head(151936, hidden, "Q6_K", ACT),
        Attention(heads, max(1, heads // 4), 128, 640),
    ]


def search(
    problems: Iterable[Problem], target: TuneTarget, trials: int, seed: int, known: Sequence[dict[str, Any]]
) -> list[Outcome]:
    """Tune in an empty database to which `known`, records of elsewhere, was added."""
    problems = list(problems)
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "t.db") as db, ExitStack() as stack:
        db.add(known)
        sources = {p: str(db.lookup(target.device, p.key, p.template_version).source) for p in problems}
        pool = stack.enter_context(WorkerPool(target.compilers, target.separate_measurer, target.program))
        parallel.tune(dict.fromkeys(problems, 1), Session(target, db, pool, TuneSettings(trials, seed=seed)))
        return [Outcome(p, _times(db, target, p), sources[p]) for p in problems]


def _times(db: TuningDB, target: TuneTarget, problem: Problem) -> tuple[float | None, ...]:
    past = db.past_trials(target.device, problem.key, problem.template_version)
    return tuple(t.measurement.median_ns if t.measurement else None for t in past if t.kind is TrialKind.SEARCH)


def row(kind: str, seed: int, cold: Outcome, warm: Outcome) -> dict[str, Any]:
    """One problem of the table, with one seed."""
    worked = [t for t in cold.times if t is not None]
    best = min(worked)
    found = [t for t in warm.times if t is not None]
    return {
        "kind": kind,
        "seed": seed,
        "problem": cold.problem.key,
        "began_with": warm.source,
        "cold_best_us": best / 1e3,
        "warm_best_us": min(found) / 1e3 if found else None,
        "cold_evaluations": cold.evaluations_to(best * WITHIN),
        "warm_evaluations": warm.evaluations_to(best * WITHIN),
        "cold_trials": len(cold.times),
        "warm_trials": len(warm.times),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one kind of transfer: medians, and the share of problems that reach the aim."""
    cold = [r["cold_evaluations"] for r in rows]
    warm = [r["warm_evaluations"] if r["warm_evaluations"] is not None else float("inf") for r in rows]
    share = sum(n <= AIM_EVALUATIONS for n in warm) / len(rows)
    return {
        "problems": len({r["problem"] for r in rows}),
        "searches": len(rows),
        "cold_median": statistics.median(cold),
        "warm_median": statistics.median(warm),
        "share_within_10": share,
        "aim": AIM_SHARE,
        "reached": share >= AIM_SHARE,
    }


def records(paths: Iterable[Path], chosen: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """What databases or exports hold of chosen devices: trials too, where they have any."""
    found: list[dict[str, Any]] = []
    for path in paths:
        if path.suffix == ".jsonl":
            held = list(jsonl.read_text(path.read_text(encoding="utf-8"), str(path)))
        else:
            with open_db(path, readonly=True) as db:
                held = db.exported()
        for chip_key in dict.fromkeys(f["chip_key"] for f in held if f["kind"] == "device" and chosen(f)):
            found += stored_records.of_chip_key(held, chip_key)
    return found


def known_problems(held: Iterable[dict[str, Any]]) -> list[Problem]:
    """Of the records of other chips the problems that can be tuned alone here, one shape of each kind."""
    kinds: dict[str, Problem] = {}
    for fact in held:
        if fact["kind"] == "winner" and not fact["problem"].startswith("layer:"):
            problem = registry.parse_problem(fact["problem"])
            if problem.template_version == fact["template_version"]:
                kinds.setdefault(problem.key, problem)
    return sorted(kinds.values(), key=lambda p: p.key)


def from_chip(
    target: TuneTarget, elsewhere: Sequence[dict[str, Any]], limit: int, trials: int, seed: int
) -> list[dict[str, Any]]:
    """From another chip's records of the same problems, `limit` of them at most; nothing if there are none."""
    problems = known_problems(elsewhere)
    if not problems:
        return []
    problems = problems[:: max(1, len(problems) // limit)][:limit]
    cold, warm = (search(problems, target, trials, seed, known) for known in ([], elsewhere))
    return [row("chip", seed, c, w) for c, w in zip(cold, warm, strict=True)]


def from_shape(
    target: TuneTarget, wide: Sequence[Problem], narrow: Mapping[str, Sequence[Problem]], trials: int, seed: int
) -> list[dict[str, Any]]:
    """From a tuning run of the wide problems on this very chip to others, by the kind of transfer."""
    if not narrow:
        return []
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "wide.db") as db:
        with WorkerPool(target.compilers, target.separate_measurer, target.program) as pool:
            parallel.tune(dict.fromkeys(wide, 1), Session(target, db, pool, TuneSettings(trials, seed=seed)))
        known = db.exported()
    rows = []
    for kind, problems in narrow.items():
        cold, warm = (search(problems, target, trials, seed, held) for held in ([], known))
        rows += [row(kind, seed, c, w) for c, w in zip(cold, warm, strict=True)]
    return rows


def run(
    target: TuneTarget,
    others: Sequence[Path],
    trials: int,
    seeds: Sequence[int],
    limit: int,
    wide: Sequence[Problem],
    narrow: Mapping[str, Sequence[Problem]],
) -> dict[str, Any]:
    """Both transfers on the device at hand: chip to chip if records of another chip are given, and shape to shape."""
    begun = time.monotonic()
    elsewhere = records(others, lambda device: device["chip_key"] != target.device.chip_key)
    rows = []
    for seed in seeds:
        rows += from_chip(target, elsewhere, limit, trials, seed) + from_shape(target, wide, narrow, trials, seed)
    kinds = dict.fromkeys(r["kind"] for r in rows)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"chip": target.device.chip, "fingerprint": target.device.fingerprint},
        "versions": versions(),
        "records_from": sorted({f["chip"] for f in elsewhere if f["kind"] == "device"}),
        "settings": {"trials": trials, "seeds": list(seeds), "within": WITHIN},
        "seconds": round(time.monotonic() - begun, 1),
        "summary": {kind: summary([r for r in rows if r["kind"] == kind]) for kind in kinds},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_transfer", description="How much records of another chip or shape save a search."
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--trials", type=int, default=50, help="Evaluations of each search, per problem.")
    parser.add_argument("--problems", type=int, default=8, help="Of another chip's records, at most.")
    parser.add_argument("--seeds", type=int, default=3, help="How often all is done.")
    parser.add_argument("--no-shapes", action="store_true", help="Leave out what goes from shape to shape.")
    parser.add_argument("--out", type=Path, help="default: benchmarks/CHIP/transfer.json")
    parser.add_argument("records", nargs="*", type=Path, help="Databases or exports.  [default: tuning_db/shipped/]")
    arguments = parser.parse_args()
    target = targets.of(arguments.device)
    others = arguments.records or sorted(shipped.FOLDER.glob(f"{target.device.backend}-*.jsonl"))
    shipped.FOLDER = Path("/nothing")  # cold is cold: what is shipped for this chip is not looked at
    seeds = range(arguments.seeds)
    narrow = {} if arguments.no_shapes else {f"{WIDE} to {width}": shapes(width) for width in NARROW}
    document = run(target, others, arguments.trials, seeds, arguments.problems, shapes(WIDE), narrow)
    chip = target.device.chip.lower().replace("nvidia ", "").split()[0]
    out = arguments.out or ROOT / "benchmarks" / chip / "transfer.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for kind, found in document["summary"].items():
        print(f"{kind}: {found}")
    print(f"{out}, {document['seconds']} s")


if __name__ == "__main__":
    main()
