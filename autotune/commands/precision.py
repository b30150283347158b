"""`autotune precision`: where a model loses precision, and what several files of it cost"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from autotune.precision.precision_result import Beside, Divergence, ModelPrecision
    from model.engine import Model

DIVERGENCE = ("top-1", "mean KL, nats", "99% KL", "max KL")
MOST = 5  # extremes that are printed; --json has all
ALONE = (
    "Each operation's kernel alone, on the float32 pass's exact inputs: ‖found − wanted‖ / ‖wanted‖, the mean over "
    "positions; of what adds to the residual stream, of what it adds."
)


@click.command()
@options.model_argument
@click.option(
    "--text", metavar="FILE", type=click.Path(path_type=Path),
    help="Text to read, in UTF-8.  [default: 300 words that come with autotune]",
)  # fmt: skip
@click.option(
    "--tokens", type=click.IntRange(2, 4096), default=256, show_default=True, help="Tokens of the text, at most."
)
@click.option(
    "--beside", metavar="OTHER.gguf", type=click.Path(path_type=Path), multiple=True,
    help="Another file of the same model to compare with; may be given several times.",
)  # fmt: skip
@options.device_option
@options.threads_option
@options.db_option
@options.json_option
def precision(
    model: Path, text: Path | None, tokens: int, beside: tuple[Path, ...], device: str, db_path: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure where a model loses precision.

    The judge is a float32 pass over the same weights. Against it stand the model's logits, decode and prompt apart,
    and every operation of every layer alone, on exact inputs. With --beside several files of one model are compared by
    size, speed and KL divergence. llama.cpp's own numbers stand beside where the extra `peer` is installed.

    \b
    Example:
      autotune precision model.gguf
      autotune precision model-Q4_K_M.gguf --beside model-Q8_0.gguf --json > precision.json
      autotune dashboard --precision precision.json -o page.html
    """
    options.require(device)
    words = read_text(text)
    with options.alone(device), output.steps() as progress:
        result = _measure(model, words, tokens, beside, device, db_path, progress)
    if as_json:
        output.print_json(result.document())
    else:
        print_precision(result)


def read_text(path: Path | None) -> str:
    """Raises UserError for what is no text."""
    from autotune.precision.model_precision import TEXT

    try:
        return (path or TEXT).read_bytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8; give a text file") from None


def _measure(
    model: Path,
    text: str,
    count: int,
    beside: tuple[Path, ...],
    device: str,
    db_path: Path | None,
    progress: Callable[[str], None],
) -> "ModelPrecision":
    from dataclasses import replace

    from autotune.precision import beside as side_by_side
    from autotune.precision import model_precision
    from autotune.runner.versions import versions
    from model.engine import load
    from model.gguf_file import open_gguf

    here, file = options.detect(device), open_gguf(model)
    tokens = model_precision.read_tokens(file, text, count)
    with options.open_database(db_path) as db:

        def opened(path: Path) -> "Model":
            progress(f"loading {path.name}")
            return load(path, device, db=db, context=model_precision.context_for(open_gguf(path), tokens))

        if beside:
            side_by_side.check_one_model({path: open_gguf(path) for path in (model, *beside)}, tokens)
        with closing(opened(model)) as engine:
            result = model_precision.measure(engine, model.name, tokens, here.chip, model, progress)
        rows = side_by_side.compare((model, *beside), tokens, opened, progress) if beside else None
    return replace(result, beside=rows, versions=versions() | dict(here.versions))


def print_precision(result: "ModelPrecision") -> None:
    """The answer first, then its numbers."""
    output.line(result.answer)
    for note in result.notes:
        output.note(note)
    rows = [(row.engine, row.path, *divergence_cells(row.divergence)) for row in result.engines]
    title = f"{result.model}: logits of {result.settings['tokens']} tokens"
    output.print_table(title, ("engine", "path", *DIVERGENCE), rows, DIVERGENCE)
    _print_operations(result)
    _print_extremes(result)
    if result.beside is not None:
        print_beside(result.beside)


def divergence_cells(found: "Divergence | None") -> tuple[str, ...]:
    if found is None:
        return ("–",) * 4
    return f"{found.top1:.1%}", *(f"{value:.2g}" for value in (found.mean_kl, found.p99_kl, found.max_kl))


def _print_operations(result: "ModelPrecision") -> None:
    from autotune.precision.precision_result import PATHS

    lines = [
        (
            path, name, f"{found.mean:.2g}", f"{found.top.error:.2g}",
            "–" if found.top.layer is None else str(found.top.layer), f"{found.top.worst:.2g}", str(found.top.position),
        )
        for path in PATHS
        for name, found in result.summaries(path).items()
    ]  # fmt: skip
    numeric = ("mean error", "largest", "of layer", "worst there", "at position")
    output.print_table("Operations alone", ("path", "operation", *numeric), lines, numeric)
    click.echo(ALONE)
    click.echo()


def _print_extremes(result: "ModelPrecision") -> None:
    numeric = ("channel", "weight", "median", "× median")
    rows = [
        (row.tensor, str(row.channel), f"{row.weight:.4g}", f"{row.median:.4g}", output.number(row.ratio))
        for row in result.extreme_norms[:MOST]
    ]
    output.print_table("Extreme norm weights", ("tensor", *numeric), rows, numeric)
    headings = ("layer", "channel", "position", "value", "RMS", "× RMS")
    found = [
        (
            str(row.layer), str(row.channel), str(row.position), f"{row.value:.4g}", f"{row.rms:.4g}",
            output.number(row.ratio),
        )
        for row in result.extreme_activations[:MOST]
    ]  # fmt: skip
    output.print_table("Extreme activations after a layer", headings, found, headings)
    output.line(result.extremes)
    click.echo()


def print_beside(found: "Beside") -> None:
    """Several files of one model."""
    numeric = ("MB", "bits a weight", "decode tok/s", *DIVERGENCE)
    rows = [
        (
            row.file, row.engine, f"{row.file_bytes / 1e6:.1f}", f"{row.bits_per_weight:.2f}",
            output.number(row.decode_tok_s), *divergence_cells(row.divergence),
        )
        for row in found.files
    ]  # fmt: skip
    title = f"Files side by side, against float32 over {found.reference}"
    output.print_table(title, ("file", "engine", *numeric), rows, numeric)
    for row in found.files:
        if row.failure:
            output.note(f"{row.file}, {row.engine}: {row.failure}")
