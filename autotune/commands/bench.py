"""`autotune bench`: what tuning is worth on this machine, in tokens per second and in bandwidth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autotune import UserError
from autotune.commands import options, output


@click.command()
@options.model_argument
@click.option(
    "--prompt", type=click.IntRange(min=1), help="Tokens of the prompt.  [default: 512 on the cpu, 2048 on a GPU]"
)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to decode.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions; medians count.")
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(min=0),
    multiple=True,
    help="Cached tokens to decode after, on a GPU; may be given again.  [default: 0 and 4096]",
)
@options.nvtx_option
@options.device_option
@options.db_option
@options.json_option
def bench(
    model: Path, prompt: int | None, tokens: int, runs: int, depths: tuple[int, ...], nvtx: bool, device: str,
    db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure prefill and decode, untuned against tuned.

    Bandwidth is the bytes a token must read over its time; its share is of the machine's measured read bandwidth. On a
    GPU it also says how many kernels a token runs, and how long those of each operation take alone.

    \b
    Example:
      autotune bench model.gguf --prompt 512 --tokens 128
      autotune bench model.gguf --device cuda:0 --depth 0 --depth 4096
    """
    options.require(device)
    if nvtx and device == options.CPU:
        raise UserError("NVTX marks what a GPU runs; give --device cuda:0")
    from autotune.benchmarking import cpu_benchmark as library
    from model.gguf_file import open_gguf

    open_gguf(model)  # a bad file is refused before the database is touched
    with options.open_database(db_path, readonly=False) as db, options.alone(device):
        if device == options.CPU:
            result = library.bench(model, db, device, prompt=prompt or 512, tokens=tokens, runs=runs)
        else:
            from autotune.benchmarking import cuda_benchmark

            result = cuda_benchmark.bench(
                model,
                db,
                device,
                prompt=prompt or 2048,
                tokens=tokens,
                runs=runs,
                depths=depths or (0, 4096),
                nvtx=nvtx,
            )
    if as_json:
        output.print_json(result)
    elif device == options.CPU:
        _print(result)
    else:
        _print_gpu(result)


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


def _print_gpu(result: Mapping[str, Any]) -> None:
    sides = [(name, result[name]) for name in ("untuned", "tuned")]
    numeric: tuple[str, ...] = ("depth", "decode tok/s", "MB per token", "TB/s", "of read", "kernels per token")
    lines: list[tuple[str, ...]] = [
        (
            name, depth, output.number(row["tok_s"]), output.number(row["bytes_per_token"] / 1e6),
            _terabytes(row["gb_s"]), output.percent(row["share"]), str(row["kernels_per_token"]),
        )
        for name, side in sides
        for depth, row in side["decode"].items()
    ]  # fmt: skip
    output.print_table(str(result["model"]), ("kernels", *numeric), lines, numeric)
    rates = ", ".join(f"{name} {output.number(side['prefill_tok_s'])} tok/s" for name, side in sides)
    click.echo(f"prefill of {result['settings']['prompt']} tokens: {rates}\n")
    numeric = ("count", "untuned µs", "tuned µs", "speed-up", "µs each", "MB", "TB/s", "of read")
    before = {row["kernel"]: row["us"] for row in result["operations"]["untuned"]}
    after = result["operations"]["tuned"]
    # A kernel that only the untuned token has is shown too: tuning left it out.
    gone = [row for row in result["operations"]["untuned"] if row["kernel"] not in {r["kernel"] for r in after}]
    lines = [_operation(row, before.get(row["kernel"]), row["us"]) for row in after]
    lines[-1:-1] = [_operation(row, row["us"], None) for row in gone]
    output.print_table("Where a token's time goes", ("kernel", *numeric), lines, numeric)
    click.echo(
        "Each kernel's launches of all layers, captured alone and reading from memory; in the token they overlap, so "
        "these times do not add up to the token's."
    )


def _operation(row: Mapping[str, Any], before: float | None, after: float | None) -> tuple[str, ...]:
    """One line; all but the first time is the tuned token's."""
    own = row if after is not None else {}
    size = own.get("bytes")
    return (
        row["kernel"], str(row["count"]), output.number(before), output.number(after), output.ratio(before, after),
        output.number(own.get("us_each"), 2), output.number(size / 1e6 if size else None),
        _terabytes(own.get("gb_s")), output.percent(own.get("share")),
    )  # fmt: skip


def _terabytes(gb_s: float | None) -> str:
    return output.number(None if gb_s is None else gb_s / 1e3, 2)
