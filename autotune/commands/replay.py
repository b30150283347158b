"""`autotune replay`: run a sampler on a space that was measured before."""

from pathlib import Path

import click

from autotune.commands import options, output
from autotune.samplers import SAMPLERS


@click.command()
@click.argument("space", metavar="SPACE.csv.gz", type=click.Path(path_type=Path))
@click.option("--sampler", type=click.Choice(SAMPLERS), default="pool", show_default=True, help="How to choose.")
@click.option("--trials", type=click.IntRange(min=1), default=200, show_default=True, help="Evaluations of a run.")
@click.option("--seeds", type=click.IntRange(min=1), default=25, show_default=True, help="Runs, of seeds 0, 1, ...")
@options.json_option
def replay(space: Path, sampler: str, trials: int, seeds: int, as_json: bool) -> None:
    """Run a sampler on a recorded space, without a GPU.

    SPACE is a CSV file, perhaps gzipped: a header, then a line for each valid configuration, the parameters first and
    last time_ms, empty where the configuration failed. In the JSON, "rows" are numbers of lines, the first after the
    header being 0, in the order they were evaluated, and "seconds" what the sampler took.

    \b
    Example:
      autotune replay gemm.csv.gz --sampler pool --trials 100 --seeds 5
    """
    from autotune.samplers import replay as replaying

    recorded = replaying.read(space)
    runs = [replaying.replay(recorded, sampler, trials, seed) for seed in range(seeds)]
    if as_json:
        rows = [{"seed": run.seed, "rows": list(run.rows), "seconds": run.seconds} for run in runs]
        output.print_json({"space": recorded.name, "sampler": sampler, "runs": rows})
        return
    best = min(seconds for seconds in recorded.seconds if seconds is not None)
    click.echo(f"{recorded.name}: {len(recorded.configs):,} configurations, the best {1e3 * best:.4g} ms")
    for run in runs:
        times = [recorded.seconds[row] for row in run.rows]
        found = min((seconds for seconds in times if seconds is not None), default=None)
        told = "nothing that works" if found is None else f"{found / best:.3f} times the best's time"
        click.echo(f"seed {run.seed}: {told} after {len(run.rows)} evaluations, {run.seconds:.2f} s")
