"""A quantized matrix's product with many tokens, alone: each algorithm of the operation `matmul` beside the library.

Every algorithm is searched by itself for some seconds, in a database that is thrown away, with the tuner's own means:
verified against the reference, over copies of the weights that exceed the last cache, the best few compared in turn.
One token goes through `matvec`, as decoding does. Beside them stands the library's product of a matrix expanded before,
in float16 by cuBLAS on a GPU and in float32 by oneDNN on a processor, over copies as well; "library" among the
algorithms expands first, each time.

Bytes are those of the matrix in its file and of activations once; a rate of the library's is over its own bytes.
"""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
from peer import facts
from rich.console import Console
from rich.table import Table

from autotune import UserError
from autotune.commands import options
from autotune.runner.versions import versions
from autotune.tuning import sequential, target, tune_model
from autotune.tuning.candidate_runner import TuneError
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import Tuned, TuneSettings
from kernel_templates import formats, registry
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matvec.problem import Matvec
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import open_db

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ("6144x4096", "4096x4096", "24576x4096", "4096x12288")  # of a layer of Qwen3-8B
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
FORMATS = ("Q4_0", "Q4_K")
MATVEC = "matvec"
LOOKED_AT = 20_000  # configurations, for one that an algorithm's search may begin with
REPEATS, SAMPLES = 5, 5
screen = Console(highlight=False, width=160)


@dataclass(frozen=True)
class Row:
    """One algorithm, or the library's product alone, of one shape, format and number of tokens; ns: of a call."""

    format: str
    shape: str
    tokens: int
    algorithm: str
    ns: float
    bytes: int
    ops: int
    config: Config | None = None

    def document(self) -> dict[str, Any]:
        return {
            "format": self.format, "shape": self.shape, "tokens": self.tokens, "algorithm": self.algorithm,
            "us": round(self.ns / 1e3, 3), "tb_s": round(self.bytes / self.ns / 1e3, 6),
            "tflop_s": round(self.ops / self.ns / 1e3, 6), "config": None if self.config is None else dict(self.config),
        }  # fmt: skip


def restricted(space: Space, algorithm: str) -> Space | None:
    """The part of a space with one algorithm; its default is what is most like the whole space's. None if there is no
    valid configuration."""
    try:
        return space.fixed({"algorithm": algorithm})
    except ValueError:
        pass
    first = space.default
    having = (config for config in space.each() if config["algorithm"] == algorithm)
    nearest = max(
        islice(having, LOOKED_AT), key=lambda c: sum(c[name] == first[name] for name in c), default=None
    )  # fmt: skip
    if nearest is None:
        return None
    parameters = (replace(p, default=nearest[p.name]) for p in space.parameters)
    return Space(tuple(parameters), space.constraints).fixed({"algorithm": algorithm})


def algorithms(problem: Matmul, chip: TuneTarget) -> tuple[str, ...]:
    return tuple(map(str, next(p.values for p in chip.space(problem).parameters if p.name == "algorithm")))


def searched(problems: Sequence[Problem], chip: TuneTarget, seconds: float) -> list[Tuned]:
    """The best of so many seconds for each problem together, compilers working for all; 0: the defaults. Those of which
    no configuration works are left out."""
    settings = TuneSettings(1, None) if not seconds else TuneSettings(None, seconds * len(problems))
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "matmul.db") as db:
        try:
            if chip.name == options.CPU:
                return sequential.tune(dict.fromkeys(problems, 1), db, settings, chip)
            return tune_model.tune(dict.fromkeys(problems, 1), [], db, chip, settings)[0]
        except TuneError as error:
            if len(problems) == 1:
                screen.print(f"[yellow]{error}[/]")
                return []
    return [tuned for problem in problems for tuned in searched([problem], chip, seconds)]


def measure(form: str, shape: tuple[int, int], tokens: Sequence[int], chip: TuneTarget, seconds: float) -> list[Row]:
    """Every algorithm at every number of tokens."""
    rows, cols = shape
    found = []
    if 1 in tokens:
        found += [_row(form, 1, MATVEC, tuned) for tuned in searched([Matvec(rows, cols, form)], chip, seconds)]
    problems = [Matmul(rows, cols, form, count) for count in tokens if count > 1]
    every = dict.fromkeys(name for problem in problems for name in algorithms(problem, chip))
    for name in every:
        spaces = {p: restricted(chip.space(p), name) for p in problems if name in algorithms(p, chip)}
        possible = {problem: space for problem, space in spaces.items() if space is not None}

        def only(problem: Problem, possible: dict[Any, Space] = possible) -> Space:
            return possible.get(problem) or chip.space(problem)

        for tuned in searched(list(possible), replace(chip, space=only), seconds) if possible else ():
            assert isinstance(tuned.problem, Matmul)
            found.append(_row(form, tuned.problem.tokens, name, tuned))
    return found


def _row(form: str, tokens: int, algorithm: str, tuned: Tuned) -> Row:
    work, problem = registry.get(tuned.problem.op).work(tuned.problem), tuned.problem
    assert isinstance(problem, Matmul | Matvec)
    shape = f"{problem.rows}x{problem.cols}"
    return Row(form, shape, tokens, algorithm, tuned.best_ns, work.bytes, work.ops, tuned.config)


def library_on_gpu(index: int) -> tuple[str, Callable[[int, int, int], tuple[float, int]]]:
    """(its name, what gives nanoseconds and bytes of y [tokens, rows] = x W^T, W float16, y float32)."""
    import torch

    from autotune.runner import cuda_candidate, gpu_timer
    from kernel_templates.cuda import machine

    torch.cuda.set_device(index)

    def time(rows: int, cols: int, tokens: int) -> tuple[float, int]:
        size = 2 * rows * cols
        count = cuda_candidate.copies(size, 2 * machine.l2_bytes(index), torch.cuda.mem_get_info(index)[0])
        x = torch.randn(tokens, cols, dtype=torch.float16, device="cuda")
        y = torch.empty(tokens, rows, device="cuda")
        copies = [torch.randn(rows, cols, dtype=torch.float16, device="cuda") for _ in range(count)]

        def once() -> None:
            for matrix in copies:
                torch.mm(x, matrix.T, out_dtype=torch.float32, out=y)

        graph = gpu_timer.capture(once)
        ns = median(gpu_timer.mean_ns(graph.replay, REPEATS) for _ in range(SAMPLES)) / count
        return ns, size + tokens * (2 * cols + 4 * rows)

    return "cuBLAS float16", time


def library_on_cpu(threads: int) -> tuple[str, Callable[[int, int, int], tuple[float, int]]]:
    """As `library_on_gpu`, of float32, by oneDNN: torch itself asks MKL, which is not made for AMD's processors."""
    import time as clock

    import torch

    from autotune.runner.cpu_candidate import working_set

    torch.set_num_threads(threads)

    def time(rows: int, cols: int, tokens: int) -> tuple[float, int]:
        size = 4 * rows * cols
        x, count = torch.randn(tokens, cols), max(1, min(8, -(-working_set() // size)))
        copies = [torch.randn(rows, cols) for _ in range(count)]

        def once() -> float:
            start = clock.perf_counter()
            for matrix in copies:
                torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
            return (clock.perf_counter() - start) * 1e9 / count

        once()
        return median(once() for _ in range(SAMPLES)), size + 4 * tokens * (cols + rows)

    return "oneDNN float32", time


def table_of(form: str, shape: str, rows: Sequence[Row], library: str) -> Table:
    """µs of each algorithm and of the library, and of the fastest algorithm its rates and how it stands to the best."""
    names = [name for name in dict.fromkeys(row.algorithm for row in rows) if name != library]
    table = Table(title=f"{shape} {form}, µs")
    for heading in ("tokens", *names, library, "won", "TB/s", "TFLOP/s", "over the best"):
        table.add_column(heading, justify="left" if heading == "won" else "right")
    for tokens in dict.fromkeys(row.tokens for row in rows):
        mine = {row.algorithm: row for row in rows if row.tokens == tokens}
        ours = {name: row for name, row in mine.items() if name != library}
        won = min(ours.values(), key=lambda row: row.ns, default=None)
        times = [f"{mine[name].ns / 1e3:,.2f}" if name in mine else "–" for name in (*names, library)]
        if won is None:
            table.add_row(str(tokens), *times, "–", "–", "–", "–")
            continue
        d, best = won.document(), min(row.ns for row in mine.values())
        table.add_row(
            str(tokens), *times, won.algorithm, f"{d['tb_s']:.3f}", f"{d['tflop_s']:,.2f}", f"{won.ns / best:.2f}×"
        )
    return table


def _shape(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[tuple[int, int]]:
    found = []
    for text in given:
        rows, _, cols = text.partition("x")
        if not (rows.isdecimal() and cols.isdecimal() and int(rows) > 0 and int(cols) > 0 and int(cols) % 256 == 0):
            raise click.BadParameter(f"{text}: give ROWSxCOLUMNS, columns a multiple of 256, such as 6144x4096")
        found.append((int(rows), int(cols)))
    return found


@click.command()
@click.argument("names", nargs=-1, metavar="[FORMAT]...")
@click.option("--device", type=options.DeviceName(), default="cuda:0", show_default=True, help="cpu or cuda:N.")
@click.option(
    "--shape", "shapes", multiple=True, default=SHAPES, show_default=True, callback=_shape,
    help="ROWSxCOLUMNS; may be given again.",
)  # fmt: skip
@click.option(
    "--tokens", type=click.IntRange(1, 8192), multiple=True, default=TOKENS, show_default=True,
    help="Tokens at once; may be given again.",
)  # fmt: skip
@click.option(
    "--search", "seconds", type=click.FloatRange(min=0), default=2.0, show_default=True,
    help="Seconds for each algorithm of each product; 0 takes the templates' defaults.",
)  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: benchmarks/CHIP/matmul.json]")
def main(
    names: tuple[str, ...], device: str, shapes: list[tuple[int, int]], tokens: tuple[int, ...], seconds: float,
    out: Path | None,
) -> None:  # fmt: skip
    """Measure products of matrices in FORMATs (Q4_0 and Q4_K if none is given) with 1 to 2,048 tokens.

    Example: scripts/bench_matmul Q4_0 --shape 6144x4096 --search 5
    """
    known = [name for name, fmt in formats.FORMATS.items() if fmt.quantized]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no block format is called {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        options.require(device)
    except UserError as error:
        raise click.UsageError(str(error)) from None
    chip = target.of(device)
    results: list[Row] = []
    name, library = "", None
    for rows, cols in shapes:
        beside: list[Row] = []
        for number, form in enumerate(names or FORMATS):
            found = measure(form, (rows, cols), tokens, chip, seconds)
            if library is None:  # only now: on a GPU it starts CUDA here, which the search does elsewhere
                on_cpu = device == options.CPU
                name, library = library_on_cpu(chip.device.units) if on_cpu else library_on_gpu(int(device[5:]))
            if number == 0:
                for count in tokens:
                    ns, size = library(rows, cols, count)
                    beside.append(Row("", f"{rows}x{cols}", count, name, ns, size, 2 * rows * cols * count))
            found += [replace(row, format=form) for row in beside]
            found.sort(key=lambda row: row.tokens)
            screen.print(table_of(form, f"{rows}x{cols}", found, name))
            results += found
    words = ["scripts/bench_matmul", *names, f"--device={device}", f"--search={seconds:g}"]
    words += [f"--shape={rows}x{cols}" for rows, cols in shapes if [f"{r}x{c}" for r, c in shapes] != list(SHAPES)]
    words += [f"--tokens={count}" for count in tokens if tokens != TOKENS]
    document = {
        "date": facts.here()["date"], "command": shlex.join(words), "library": name,
        "device": {"name": device, "chip": chip.device.chip}, "versions": versions() | dict(chip.device.versions),
        "results": [row.document() for row in results],
    }  # fmt: skip
    path = out or ROOT / "benchmarks" / facts.chip_folder(chip.device.chip) / "matmul.json"
    facts.write(path, document)
    screen.print(f"written to {path}")


if __name__ == "__main__":
    main()
