"""`autotune replay`: runs a sampler on a space that was measured before."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output
from autotune.samplers import SAMPLERS

if TYPE_CHECKING:
    from autotune.importers.tuning_results import TuningResults
    from autotune.samplers.replay import Recorded


@click.command()
@click.argument("space", metavar="SPACE", type=click.Path(path_type=Path))
@click.option("--sampler", type=click.Choice(SAMPLERS), default="pool", show_default=True, help="Sampler to run.")
@click.option("--trials", type=click.IntRange(min=1), default=200, show_default=True, help="Evaluations in a run.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=25, show_default=True, help="Runs, with random seeds 0, 1, ..."
)
@options.json_option
def replay(space: Path, sampler: str, trials: int, seeds: int, as_json: bool) -> None:
    """Run a sampler on a recorded space, without a GPU.

    SPACE is a CSV file, perhaps gzipped: a header, then a line for each valid configuration, the parameters first and
    last time_ms, empty where the configuration failed. Or it is a file of tuning results that autotune import reads,
    such as T4. In the JSON, "rows" are numbers of lines or results, the first (after the header) being 0, in the order
    they were evaluated, and "seconds" what the sampler took.

    \b
    Example:
      autotune replay gemm.csv.gz --sampler pool --trials 100 --seeds 5
    """
    from autotune.samplers import replay as replaying

    recorded = _recorded(space)
    runs = [replaying.replay(recorded, sampler, trials, seed) for seed in range(seeds)]
    if as_json:
        rows = [{"seed": run.seed, "rows": list(run.rows), "seconds": run.seconds} for run in runs]
        output.print_json({"space": recorded.name, "sampler": sampler, "runs": rows})
        return
    best = min(seconds for seconds in recorded.seconds if seconds is not None)
    output.line(f"{recorded.name}: {len(recorded.configs):,} configurations, the best {1e3 * best:.4g} ms")
    for run in runs:
        times = [recorded.seconds[row] for row in run.rows]
        found = min((seconds for seconds in times if seconds is not None), default=None)
        told = "nothing that works" if found is None else f"{found / best:.3f} times the best's time"
        click.echo(f"seed {run.seed}: {told} after {len(run.rows)} evaluations, {run.seconds:.2f} s")


def _recorded(path: Path) -> "Recorded":
    """The space in a file. Raises UserError."""
    from autotune.importers import registry
    from autotune.importers.files import bounded_numbers
    from autotune.importers.tuning_results import TuningResults
    from autotune.samplers import replay as replaying

    importer = registry.recognize(path)
    if importer is None:
        return replaying.read(path)
    with bounded_numbers(path):
        found = importer.read(path)
    if isinstance(found, tuple) and len(found) == 1:
        (found,) = found
    if not isinstance(found, TuningResults):
        raise UserError(f"{path} ({importer.name}) has no results of a tuner; see autotune replay --help")
    return _space_of(found, path)


def _space_of(results: "TuningResults", path: Path) -> "Recorded":
    """The configurations that were tried, each with its last time; those that a constraint excludes are not valid."""
    from autotune.samplers.replay import Recorded
    from kernel_templates.space import Config
    from tuning_db.records import Outcome

    tried = [trial for trial in results.trials if trial.outcome is not Outcome.PRUNED]
    names = tried[0].config.keys() if tried else ()
    for trial in tried:
        plain = all(isinstance(value, int | float | str) for value in trial.config.values())
        if trial.config.keys() != names or not plain:
            raise UserError(f"{path} cannot be replayed: its configurations are not values of the same parameters")
    seconds = {
        Config(trial.config): None if trial.measurement is None else trial.measurement.median_ns * 1e-9
        for trial in tried
    }
    if not names or all(second is None for second in seconds.values()):
        raise UserError(f"{path} has no configuration that worked")
    return Recorded(results.file, tuple(seconds), tuple(seconds.values()))
