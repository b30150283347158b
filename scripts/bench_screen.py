"""What screening and searching are worth on spaces of our own that were measured exhaustively.

`measure` needs a GPU and writes every configuration's time and machine code to a working folder, `collect` makes T4
files of that, `judge` needs no GPU, `search` needs one again.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from peer import facts
from rich.console import Console
from rich.table import Table
from screening import judging, measuring, searching, space_files
from screening.recording import Recording
from screening.spaces import HELD_OUT, PARTS

from autotune.runner.versions import versions
from autotune.tuning import target as targets
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db.records import Run

ROOT = Path(__file__).resolve().parent.parent
SPACES = ROOT / "benchmarks" / "spaces"
RELATIVE_S = 15.0  # of tuning the other shape that a warm search begins from
screen = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 160)


held_out = click.option("--held-out", is_flag=True, help="Spaces that no rule was made for, instead of the three.")
device_option = click.option("--device", default="cuda:0", show_default=True)
folder_option = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Working folder."
)
spaces_option = click.option(
    "--spaces",
    type=click.Path(path_type=Path, file_okay=False),
    default=SPACES,
    show_default="benchmarks/spaces",
    help="Folder of T4 files.",
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: benchmarks/CHIP/screen.json]"
)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@folder_option
@device_option
@click.option(
    "--budget", type=click.FloatRange(min=1), default=540, show_default=True, help="Seconds; run again to go on."
)
@click.option("--compilers", type=click.IntRange(min=1), help="Processes.  [default: one a core but one]")
@held_out
def measure(folder: Path, device: str, budget: float, compilers: int | None, held_out: bool) -> None:
    """Measure every configuration of each space, or go on with that.

    Example: scripts/bench_screen measure --folder /tmp/spaces
    """
    begun = time.monotonic()
    parts, target = HELD_OUT if held_out else PARTS, targets.of(device)
    target = replace(target, compilers=compilers or targets.cores() - 1, compile_s=20.0)
    spaces = {part.problem: part.space(target.device) for part in parts.values()}
    for name, part in parts.items():
        screen.print(f"{name}: {len(spaces[part.problem].configs())} configurations of {part.key}")
    with ExitStack() as stack:
        recordings = {part.problem: stack.enter_context(Recording(folder, name)) for name, part in parts.items()}
        complete = measuring.measure(spaces, recordings, target, begun + budget, screen.print)
    about = {"device": target.device.__dict__, "versions": versions(), "complete": complete}
    about["seconds"] = round(time.monotonic() - begun, 1)
    facts.write(folder / "about.json", about)
    for name, part in parts.items():
        rows = recordings[part.problem].rows.values()
        times = sorted(row.ns for row in rows if row.ns)
        best = f"{times[0] / 1e3:.2f} to {times[-1] / 1e3:.1f} µs" if times else "none worked"
        screen.print(f"{name}: {len(rows)} measured, {len(rows) - len(times)} failed, {best}")
    screen.print(f"{'complete' if complete else 'not complete: run it again'}, {about['seconds']} s")


@main.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Of `measure`.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=SPACES,
    show_default="benchmarks/spaces",
    help="Folder of T4 files.",
)
@held_out
def collect(folder: Path, out: Path, held_out: bool) -> None:
    """Write what `measure` found as T4 files.

    Example: scripts/bench_screen collect --folder /tmp/spaces
    """
    about = json.loads((folder / "about.json").read_text())
    if not about["complete"]:
        raise click.ClickException(f"{folder} is not complete; run scripts/bench_screen measure again")
    device = Device(**{**about["device"], "versions": tuple(map(tuple, about["device"]["versions"]))})
    for name, part in (HELD_OUT if held_out else PARTS).items():
        recording, work = Recording(folder, name), registry.get(part.problem.op).work(part.problem)
        run = Run(
            part.key, part.problem.template_version, "exhaustive", 0, len(recording.rows), work.bytes, work.ops,
            about["versions"],
        )  # fmt: skip
        space_files.write(out / f"{name}.t4.json.gz", recording, run, device)
        screen.print(f"{name}: {len(recording.rows)} configurations written")


@main.command()
@spaces_option
@out_option
def judge(spaces: Path, out: Path | None) -> None:
    """Say what screening drops of the measured spaces, what it misses, and how soon a search finds the best; no GPU.

    Example: scripts/bench_screen judge
    """
    measured = {path.name.partition(".")[0]: space_files.read(path) for path in sorted(spaces.glob("*.t4.json.gz"))}
    if not measured:
        raise click.ClickException(f"{spaces} has no measured space; run scripts/bench_screen measure and collect")
    results = {}
    for name, space in measured.items():
        results[name] = {
            "key": space.key, "screening": judging.screened(space), "search": judging.searched(space),
        }  # fmt: skip
        if part := (PARTS | HELD_OUT).get(name):
            results[name]["rehearsal"] = judging.rehearsed(space, part.space(space.device))
    first = next(iter(measured.values()))
    path = out or ROOT / "benchmarks" / facts.chip_folder(first.device.chip) / "screen.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    document |= {
        "device": {"chip": first.device.chip, "versions": dict(first.device.versions)},
        "measured_by": dict(first.versions),
        "judged_by": versions(),
        "spaces": results,
    }
    facts.write(path, document)
    _show(results)


def _show(results: Mapping[str, Any]) -> None:
    table = Table(
        title="screening, and a tuning run rehearsed: time found over the best, mean / 95th percentile of 8 seeds"
    )
    columns = ("compiled", "dropped", "regret", "best µs", "worst µs", "20 evaluations", "40", "60", "100")
    for heading in ("space", *columns):
        table.add_column(heading, justify="left" if heading == "space" else "right")
    for name, result in results.items():
        s, found = result["screening"], result.get("rehearsal", result["search"])["found"]
        table.add_row(
            name, str(s["compiled"]), f"{s['dropped']:.1%}", f"{s['regret']:.2%}", f"{s['best_ns'] / 1e3:.2f}",
            f"{s['worst_ns'] / 1e3:.1f}",
            *(f"{found[k]['mean']:.3f} / {found[k]['p95']:.3f}" for k in ("20", "40", "60", "100")),
        )  # fmt: skip
    screen.print(table)


@main.command()
@folder_option
@spaces_option
@device_option
@click.option("--cold", type=click.FloatRange(min=1), default=60, show_default=True, help="Seconds of a cold search.")
@click.option("--warm", type=click.FloatRange(min=0), default=10, show_default=True, help="Of a warm one; 0: none.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--space", "names", multiple=True, type=click.Choice(list(PARTS)), help="This one only.  [default: all]")
@out_option
def search(
    folder: Path, spaces: Path, device: str, cold: float, warm: float, seeds: int, names: tuple[str, ...],
    out: Path | None,
) -> None:  # fmt: skip
    """Search the measured spaces on a GPU, from nothing and from another shape's winner, and compare with the best.

    What was done stays in the folder; run again to go on.

    Example: scripts/bench_screen search --folder /tmp/searches --cold 30 --seeds 3
    """
    target = targets.of(device)
    folder.mkdir(parents=True, exist_ok=True)
    done = Lines(folder / "search.jsonl")
    parts = {name: part for name, part in PARTS.items() if not names or name in names}
    for name, part in parts.items():
        space = space_files.read(spaces / f"{name}.t4.json.gz")
        kinds = ("cold", "warm") if warm else ("cold",)
        jobs = [(kind, seed) for kind in kinds for seed in range(seeds)]
        for kind, seed in jobs:
            if done.find(space=name, kind=kind, seed=seed):
                continue
            known = None
            if kind == "warm":
                known = folder / f"{name}.db"
                if not known.exists():
                    searching.winners_of_relative(part, target, RELATIVE_S, known)
            result = searching.search(part, target, cold if kind == "cold" else warm, seed, known)
            done.add({"space": name, "kind": kind, **result})
            screen.print(f"{name} {kind} {seed}: {result['wall_s']} s, {result['evaluations']} evaluations")
        mine = done.find(space=name)
        configs = list(dict.fromkeys([judging.best_config(space), *(Config(r["config"]) for r in mine)]))
        times = dict(zip(configs, searching.compare(part, target, configs), strict=True))
        done.replace(name, [{**r, "ns": times[Config(r["config"])], "best_ns": times[configs[0]]} for r in mine])
    path = out or ROOT / "benchmarks" / facts.chip_folder(target.device.chip) / "screen.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    document["searches"] = {
        "device": target.device.chip, "versions": versions(), "compilers": target.compilers, "runs": done.rows,
    }  # fmt: skip
    facts.write(path, document)
    for name in parts:
        for kind in kinds:
            ratios = [r["ns"] / r["best_ns"] for r in done.find(space=name, kind=kind)]
            walls = [r["wall_s"] for r in done.find(space=name, kind=kind)]
            told = f"{max(walls):.1f} s at most, found / best {' '.join(f'{r:.3f}' for r in ratios)}"
            screen.print(f"{name} {kind}: {told}")


class Lines:
    """Finished searches, a line each."""

    def __init__(self, path: Path):
        self._path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, **wanted: object) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._write()

    def replace(self, space: str, rows: list[dict[str, Any]]) -> None:
        self.rows = [row for row in self.rows if row["space"] != space] + rows
        self._write()

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        partial.replace(self._path)


if __name__ == "__main__":
    main()
