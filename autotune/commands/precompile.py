"""`autotune precompile`: compiles a model's kernels for a GPU that need not be here."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from autotune.screening.chips import Chip
    from tuning_db import TuningDB


@click.command()
@click.argument("model", metavar="MODEL.gguf|PROBLEM", type=click.Path(path_type=Path))
@options.arch_option
@options.widths_option()
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens that attention is compiled up to.  [default: 4096, or the model's own if less]",
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Configurations a problem: what runs untuned or has won so far, then what a tuning run tries first.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel compilers.  [default: one a core]")
@options.db_option
@options.json_option
def precompile(
    model: Path, arch: str | None, widths: tuple[str, ...], context: int | None, candidates: int, jobs: int | None,
    db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile a model's kernels into the cache, for a GPU that need not be here.

    What is there already is not compiled again. A first start then waits for no compiler, and `autotune tune` finds
    what it tries first. The files depend on the kernels, on Triton's version and on the GPU's compute capability, not
    on the machine: they may be made on one without a GPU, and the folder that is named at the end copied.

    \b
    Example:
      autotune precompile model.gguf --arch sm_90
      autotune precompile model.gguf --arch sm_90 --candidates 64 --widths decode,prompt,batch
    """
    capability = options.capability(arch, "precompile")
    from autotune.commands.tune import model_problems
    from autotune.screening import chips
    from autotune.tuning import precompile as precompiling
    from autotune.tuning import target
    from kernel_templates.cuda import kernel_cache

    try:
        chip = chips.chip(capability)
    except ValueError as error:
        raise UserError(str(error)) from None
    wanted = model_problems(model, (), "cuda:0", context, widths)
    problems = list(dict.fromkeys([*wanted.alone, *wanted.layers, *wanted.passes]))
    folder = kernel_cache.folder()
    begun, before = time.monotonic(), _files(folder)
    compilers = jobs or target.cores()
    where = precompiling.target_of(chip, compilers)
    with options.open_database(db_path) as db:
        text = 0 if options.named_problem(model) else _first_texts(model, db, context, chip, compilers)
        found = precompiling.precompile(problems, where, db, candidates, output.said_at_times("compiled"))
    made = {name: size for name, size in _files(folder).items() if name not in before}
    if not made and not before:
        raise UserError(f"{folder} cannot be written; name another folder by AUTOTUNE_CACHE")
    if as_json:
        output.print_json(
            {
                "model": str(model), "arch": f"sm_{capability}", "problems": len(problems),
                "kernels_of_a_text": text, "candidates": found.candidates, "kernels": len(made),
                "bytes": sum(made.values()), "seconds": time.monotonic() - begun, "folder": str(folder),
                "failed": [
                    {"problem": problem.key, "config": dict(config), "reason": why}
                    for (problem, config), why in found.failures.items()
                ],
            }
        )  # fmt: skip
        return
    click.echo(
        f"{output.counted(found.candidates, 'configuration')} of {output.counted(len(problems), 'problem')} for "
        f"sm_{capability} in {time.monotonic() - begun:.0f} s: {output.counted(len(made), 'new kernel')}, "
        f"{sum(made.values()) / 1e6:.1f} MB"
    )
    if found.failures:
        output.note(f"{output.counted(len(found.failures), 'configuration')} did not compile; --json says why")
    output.line(f"kept in {folder}")


def _first_texts(path: Path, db: "TuningDB", context: int | None, chip: "Chip", compilers: int) -> int:
    """How many kernels a model runs, compiled or found."""
    from model.config import ModelConfig
    from model.cuda.precompile import compile_first_texts
    from model.engine import DEFAULT_CONTEXT
    from model.gguf_file import open_gguf
    from model.runner import Settings

    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    settings = Settings(min(DEFAULT_CONTEXT if context is None else context, config.context), db)
    return compile_first_texts(file, config, settings, chip.device, compilers)


def _files(folder: Path) -> dict[str, int]:
    """Sizes in bytes by name; of those that another process does not remove meanwhile."""
    found = {}
    for file in folder.glob("*"):
        try:
            found[file.name] = file.stat().st_size
        except OSError:
            continue
    return found
