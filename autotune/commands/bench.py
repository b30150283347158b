"""`autotune bench`: measures a model untuned and tuned, in tokens per second and in bandwidth."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import loading, options, output

if TYPE_CHECKING:
    from autotune.benchmarking.benchmark_result import KernelTime, ModelBenchmark, Side
    from autotune.benchmarking.speedup import Speedup

CACHED = "* above 100%: so few bytes come from the device's cache, which is faster than its memory"
BUSY = "* above 100%: other work held the memory back while its read bandwidth was measured; run it again"
UNEVEN = 1.25
"""Read bandwidths of rounds that differ by more than this factor show other work."""
ALONE = (
    "Each kernel's launches of all layers, captured alone and reading from memory; in the token they overlap, so these "
    "times do not add up to the token's."
)
INSIDE = "Each problem's steps of all layers, timed inside the token; the token has the embedding lookup as well."


@click.command()
@options.model_argument
@click.option(
    "--prompt", type=click.IntRange(min=1), help="Tokens of the prompt.  [default: 512 on the CPU, 2048 on a GPU]"
)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to decode.")
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions; medians are shown."
)
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(min=0),
    multiple=True,
    help="Cached tokens to decode after; may be given again.  [default: 0, on a GPU also 4096]",
)
@options.widths_option(
    "What is measured beside decoding and one prompt: prompt, more of them; batch, several texts together; the "
    "others, neither.  [default: prompt, on a GPU prompt,batch]",
    None,
)
@options.nvtx_option
@options.device_option
@options.gpu_memory_option
@options.cache_option
@options.threads_option
@options.db_option
@options.json_option
def bench(
    model: Path, prompt: int | None, tokens: int, runs: int, depths: tuple[int, ...],
    widths: tuple[str, ...] | None, nvtx: bool, device: str, gpu_memory: int | None, cache: str,
    db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure prefill and decode, untuned against tuned.

    Bandwidth is the bytes a token must read over its time; its share is of the device's measured read bandwidth. The
    second table says how long the kernels of each operation take: on a GPU captured alone, on the CPU inside the token.
    Several texts are decoded together after prompts of 128 tokens, and the tokens of all are counted.

    \b
    Example:
      autotune bench model.gguf --prompt 512 --tokens 128
      autotune bench model.gguf --device cuda:0 --depth 0 --depth 4096 --widths prompt,batch
    """
    options.require(device)
    if nvtx and device == options.CPU:
        raise UserError("NVTX marks what a GPU runs; give --device cuda:0")
    if gpu_memory is not None and device == options.CPU:
        raise UserError("--gpu-memory limits a GPU's memory; give --device cuda:0")
    options.check_cache(cache, device)
    from autotune.benchmarking import model_benchmark
    from model.gguf_file import open_gguf

    open_gguf(model)  # a bad file is refused before the database is touched
    with options.open_database(db_path, readonly=False) as db, options.alone(device), output.steps() as progress:
        result = model_benchmark.benchmark(
            model, db, device, prompt=prompt, tokens=tokens, runs=runs, depths=depths, widths=widths, nvtx=nvtx,
            gpu_memory=gpu_memory, cache=cache, progress=progress,
        )  # fmt: skip
    if as_json:
        output.print_json(result.document())
    else:
        print_benchmark(result)


def print_benchmark(result: "ModelBenchmark") -> None:
    """Rates of both sides, and where a token's time goes."""
    from autotune.benchmarking.benchmark_result import PREFILL

    bandwidth = _Bandwidth(result)
    numeric: tuple[str, ...]
    numeric = ("depth", "decode tok/s", "min–max", "MB per token", bandwidth.unit, output.SHARE, "kernels per token")
    lines: list[tuple[str, ...]] = [
        (
            name, str(depth), output.number(row.tok_s), output.spread(row.tok_s_range),
            output.number(row.bytes / 1e6), *bandwidth.cells(row.gb_s, row.bytes), str(row.kernels),
        )
        for name, side in result.sides.items()
        for depth, row in side.decode.items()
    ]  # fmt: skip
    output.print_table(result.model, ("kernels", *numeric), lines, numeric)
    bandwidth.explain()
    for name, placed in result.settings.get("experts", {}).items():
        click.echo(f"{name} {loading.experts_line(placed)}")
    bandwidth.tell_rounds()
    for depth, speedup in result.speedups.items():
        if isinstance(depth, int) and depth != PREFILL:
            click.echo(f"decode after {depth} tokens: {speedup.verdict}")
    rates = ", ".join(f"{name} {_prefill(side)} tok/s" for name, side in result.sides.items())
    click.echo(f"prefill of {result.settings['prompt']} tokens: {rates}")
    if prefill := result.speedups.get(PREFILL):
        click.echo(f"prefill: {prefill.verdict}")
    _print_wide(result)
    click.echo()
    numeric = ("count", "untuned µs", "tuned µs", "speed-up", "µs each", "MB", bandwidth.unit, output.SHARE)
    before = {row.kernel: row.us for row in result.untuned.kernels}
    lines = [
        _kernel(row, before.get(row.kernel), row.us, bandwidth, result.kernel_speedup(row.kernel))
        for row in result.tuned.kernels
    ]
    # A kernel that only the untuned token has is shown too: tuning left it out.
    gone = [row for row in result.untuned.kernels if result.tuned.kernel(row.kernel) is None]
    lines[-1:-1] = [_kernel(row, row.us, None, bandwidth) for row in gone]
    output.print_table("Where a token's time goes", ("kernel", *numeric), lines, numeric)
    bandwidth.explain()
    click.echo(ALONE if result.captured_alone else INSIDE)


def _print_wide(result: "ModelBenchmark") -> None:
    """Prompts of several lengths and several texts together, where they were measured."""
    from autotune.benchmarking.benchmark_result import BATCH, PROMPT

    numeric = ("untuned tok/s", "tuned tok/s", "speed-up")
    lines = []
    for kind, name in ((PROMPT, "a prompt of {} tokens"), (BATCH, "{} texts together")):
        rates = [side.prompts if kind == PROMPT else side.batches for side in (result.untuned, result.tuned)]
        for count in rates[1]:
            before, after = (side[count].tok_s if count in side else None for side in rates)
            speedup = result.speedups.get((kind, count))
            lines.append((
                name.format(count), output.number(before), output.number(after),
                output.ratio(after, before) if speedup is None else speedup.cell,
            ))  # fmt: skip
    if lines:
        click.echo()
        output.print_table("Many tokens at once", ("what", *numeric), lines, numeric)


class _Bandwidth:
    """Bandwidths in the unit that suits the device, each with its share of the read bandwidth; a share above 100% has a
    mark, and `explain` says why."""

    def __init__(self, result: "ModelBenchmark"):
        self._result = result
        self.unit, self._scale = ("TB/s", 1e3) if result.read_gb_s >= 1e3 else ("GB/s", 1.0)
        self._reasons: dict[str, None] = {}

    def cells(self, gb_s: float | None, size: int | None) -> tuple[str, str]:
        value, share = None if gb_s is None else gb_s / self._scale, self._result.share(gb_s)
        above = share is not None and share > 1.0
        if above:
            fits = (size or 0) <= self._result.settings.get("cache_bytes", 0)
            self._reasons[CACHED if fits and not self._uneven else BUSY] = None
        return output.number(value, 2 if self._scale > 1 else 1), output.percent(share) + ("*" if above else "")

    @property
    def _uneven(self) -> bool:
        rounds = self._result.read_rounds
        return bool(rounds) and max(rounds) > UNEVEN * min(rounds)

    def tell_rounds(self) -> None:
        """Prints the read bandwidth of the rounds."""
        rounds = self._result.read_rounds
        if not rounds:
            return
        low, high, digits = min(rounds) / self._scale, max(rounds) / self._scale, 2 if self._scale > 1 else 1
        busy = "; other work held it back, so rates are below what this machine can do" if self._uneven else ""
        click.echo(f"memory was read at {low:.{digits}f} to {high:.{digits}f} {self.unit} in the same rounds{busy}")

    def explain(self) -> None:
        """Prints why shares of the cells since the last call are above 100%."""
        for reason in self._reasons:
            click.echo(reason)
        self._reasons.clear()


def _prefill(side: "Side") -> str:
    spread = f" ({output.spread(side.prefill_range)})" if side.prefill_range else ""
    return output.number(side.prefill_tok_s) + spread


def _kernel(
    row: "KernelTime", before: float | None, after: float | None, bandwidth: _Bandwidth,
    speedup: "Speedup | None" = None,
) -> tuple[str, ...]:  # fmt: skip
    """One line; all but the first time is the tuned token's."""
    tuned = after is not None
    return (
        row.kernel, str(row.count), output.number(before), output.number(after),
        output.ratio(before, after) if speedup is None else speedup.cell,
        output.number(row.us_each if tuned else None, 2),
        output.number(row.bytes / 1e6 if tuned and row.bytes else None),
        *bandwidth.cells(row.gb_s if tuned else None, row.bytes),
    )  # fmt: skip
