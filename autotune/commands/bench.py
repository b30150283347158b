"""`autotune bench`: what tuning is worth on this machine, in tokens per second and in bandwidth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autotune.commands import options, output


@click.command()
@options.model_argument
@click.option("--prompt", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to decode.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions; medians count.")
@options.device_option
@options.db_option
@options.json_option
def bench(model: Path, prompt: int, tokens: int, runs: int, device: str, db_path: Path | None, as_json: bool) -> None:
    """Measure prefill and decode, untuned against tuned.

    Bandwidth is the bytes a token must read over its time; its share is of the machine's measured read bandwidth.

    \b
    Example:
      autotune bench model.gguf --prompt 512 --tokens 128
    """
    options.require(device)
    from autotune import bench as library
    from model.gguf_file import open_gguf

    open_gguf(model)  # a bad file is refused before the database is touched
    with options.open_database(db_path, readonly=False) as db:
        result = library.bench(model, db, device, prompt=prompt, tokens=tokens, runs=runs)
    if as_json:
        output.print_json(result)
    else:
        _print(result)


def _print(result: Mapping[str, Any]) -> None:
    numeric: tuple[str, ...] = ("prefill tok/s", "decode tok/s", "MB per token", "GB/s", "of read")
    lines: list[tuple[str, ...]] = []
    for name in ("untuned", "tuned"):
        side = result[name]
        speeds = (output.number(side["prefill_tok_s"]), output.number(side["decode_tok_s"]))
        traffic = (output.number(side["bytes_per_token"] / 1e6), output.number(side["gb_s"]))
        lines.append((name, *speeds, *traffic, output.percent(side["share"])))
    output.print_table(str(result["model"]), ("kernels", *numeric), lines, numeric)
    numeric = ("count", "default µs", "tuned µs", "speed-up", "GB/s", "of read")
    lines = [
        (
            row["problem"],
            str(row["count"]),
            output.number(row["default_us"]),
            output.number(row["tuned_us"]),
            output.ratio(row["default_us"], row["tuned_us"]),
            output.number(row["gb_s"]),
            output.percent(row["share"]),
        )
        for row in result["operations"]
    ]
    output.print_table("Operations", ("problem", *numeric), lines, numeric)
