"""What screening and searching are worth on spaces of our own that were measured exhaustively.

`measure` needs a GPU and writes every configuration's time and machine code to a working folder.
"""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from peer import facts
from rich.console import Console
from screening import measuring
from screening.recording import Recording
from screening.spaces import PARTS

from autotune import place
from autotune.versions import versions

ROOT = Path(__file__).resolve().parent.parent
screen = Console(stderr=True, highlight=False)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Working folder.")
@click.option("--device", default="cuda:0", show_default=True)
@click.option(
    "--budget", type=click.FloatRange(min=1), default=540, show_default=True, help="Seconds; run again to go on."
)
@click.option("--compilers", type=click.IntRange(min=1), help="Processes.  [default: one a core but one]")
def measure(folder: Path, device: str, budget: float, compilers: int | None) -> None:
    """Measure every configuration of each space, or go on with that.

    Example: scripts/bench_screen measure --folder /tmp/spaces
    """
    begun = time.monotonic()
    where = place.of(device)
    where = replace(where, compilers=compilers or place.cores() - 1, compile_s=20.0)
    spaces = {part.problem: part.space(where.device) for part in PARTS.values()}
    for name, part in PARTS.items():
        screen.print(f"{name}: {len(spaces[part.problem].configs())} configurations of {part.key}")
    with ExitStack() as stack:
        recordings = {part.problem: stack.enter_context(Recording(folder, name)) for name, part in PARTS.items()}
        complete = measuring.measure(spaces, recordings, where, begun + budget, screen.print)
    about = {"device": where.device.__dict__, "versions": versions(), "complete": complete}
    about["seconds"] = round(time.monotonic() - begun, 1)
    facts.write(folder / "about.json", about)
    for name, part in PARTS.items():
        rows = recordings[part.problem].rows.values()
        times = sorted(row.ns for row in rows if row.ns)
        best = f"{times[0] / 1e3:.2f} to {times[-1] / 1e3:.1f} µs" if times else "none worked"
        screen.print(f"{name}: {len(rows)} measured, {len(rows) - len(times)} failed, {best}")
    screen.print(f"{'complete' if complete else 'not complete: run it again'}, {about['seconds']} s")


if __name__ == "__main__":
    main()
