"""Matrix-vector products of every quant format beside Q4_0's: µs, GB/s, share of what the device reads.

For each shape all formats are prepared at once (verified against the reference, over copies of the weights that exceed
the last cache, as the tuner measures), then sampled in turn, round after round, with the device's reading rate in
between. Bytes are those of the matrix in its file, the vector and the output. A ratio is the median of the rounds' own
ratios, which a machine that slows down for a while leaves alone.

"default" is the configuration of an untuned device; a processor's knows no instructions beyond the oldest ones, so here
it takes the best dot product there is, and asks for weights ahead. "tuned" is what a search of some seconds found.
"""

import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from peer import facts
from rich.console import Console
from rich.table import Table

from autotune.commands import tune as tune_command
from autotune.runner.versions import versions
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import formats, registry
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config
from tuning_db import open_db

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ("6144x4096", "24576x4096", "4096x12288")
BASE = "Q4_0"
ROUNDS = 15
screen = Console(highlight=False, width=120)


@dataclass
class Row:
    """One format in one configuration. us: microseconds a call, of each round; shares: of the reading rate of that
    round; ratios: its share over Q4_0's of that round."""

    shape: str
    format: str
    kind: str
    config: Mapping[str, Any]
    bytes: int
    us: list[float]
    shares: list[float]
    ratios: list[float]

    def document(self) -> dict[str, Any]:
        us = statistics.median(self.us)
        return {
            "shape": self.shape, "format": self.format, "kind": self.kind, "us": round(us, 3),
            "us_range": [round(min(self.us), 3), round(max(self.us), 3)], "gb_s": round(self.bytes / us / 1e3, 1),
            "share_of_read": round(statistics.median(self.shares), 4),
            "share_over_q4_0": round(statistics.median(self.ratios), 4) if self.ratios else None,
            "config": dict(self.config),
        }  # fmt: skip


class Cpu:
    """Candidates on this processor's cores."""

    def __init__(self, threads: int | None) -> None:
        from autotune.runner import cpu_candidate
        from autotune.runner.bandwidth import ReadProbe
        from kernel_templates.cpu import machine
        from kernel_templates.cpu.thread_pool import ThreadPool

        self._candidates, self._features = cpu_candidate, machine.features()
        self._pool = ThreadPool(threads or machine.detect().units)
        self.chip = machine.detect().chip
        self._probe = ReadProbe(self._pool, cpu_candidate.working_set())

    def default(self, problem: Matvec) -> Config:
        space = registry.cpu_space(problem, self._features)
        paths = next(p.values for p in space.parameters if p.name == "path")
        for streams in (4, 3, 2, 1):
            config = Config({**space.default, "path": paths[-1], "streams": streams, "prefetch": 8192})
            if space.broken(config) is None:
                return config
        return space.default

    def prepare(self, problem: Matvec, config: Config) -> Callable[[], float]:
        opened = self._candidates.OpenProblem(problem, self._pool, 0)
        return opened.prepare(config, self._candidates.working_set()).sample

    def read_bytes_s(self) -> float:
        return self._probe.nbytes / self._probe.seconds()


class Cuda:
    """Candidates on one GPU."""

    def __init__(self, index: int) -> None:
        import torch

        from autotune.runner import cuda_candidate
        from autotune.runner.cuda_bandwidth import ReadProbe
        from kernel_templates.cuda import machine

        torch.cuda.set_device(index)
        self._candidates, self._index, self._device = cuda_candidate, index, machine.detect(index)
        self.chip = self._device.chip
        self._target, self._l2 = machine.target(self._device), machine.l2_bytes(index)
        self._probe = ReadProbe(index)

    def default(self, problem: Matvec) -> Config:
        return registry.cuda_space(problem, self._device).default

    def prepare(self, problem: Matvec, config: Config) -> Callable[[], float]:
        opened = self._candidates.OpenProblem(problem, f"cuda:{self._index}", self._target, self._l2, 0)
        return opened.prepare(config).sample

    def read_bytes_s(self) -> float:
        return self._probe.nbytes / self._probe.seconds()


def measure(device: Cpu | Cuda, chosen: Sequence[tuple[Matvec, str, Config]], rounds: int) -> list[Row]:
    """Sample configurations of one shape in turn; the first is Q4_0's. Every second round goes the other way."""
    rows, samples = [], []
    for problem, kind, config in chosen:
        nbytes = registry.get(problem.op).work(problem).bytes
        shape = f"{problem.rows}x{problem.cols}"
        rows.append(Row(shape, problem.format, kind, config, nbytes, [], [], []))
        samples.append(device.prepare(problem, config))
    for sample in samples:
        sample()
    for number in range(rounds):
        order = range(len(rows)) if number % 2 == 0 else reversed(range(len(rows)))
        rate = device.read_bytes_s()
        for i in order:
            ns = samples[i]()
            rows[i].us.append(ns / 1e3)
            rows[i].shares.append(rows[i].bytes / ns * 1e9 / rate)
        for row in rows:
            base = next(r for r in rows if (r.format, r.kind) == (BASE, row.kind))
            row.ratios.append(row.shares[-1] / base.shares[-1])
    return rows


def tuned(problems: Sequence[Matvec], device: str, seconds: float) -> dict[Matvec, Config]:
    """What a search of so many seconds a problem finds, in a database that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "formats.db") as db:
        found = {}
        for problem in problems:
            settings = TuneSettings(budget_s=seconds)
            (one,) = tune_command.search(tune_command.Wanted({problem: 1}), db, device, settings)
            found[problem] = one.config
    return found


def size_of(shape: str) -> tuple[int, int]:
    """(6144, 4096) for "6144x4096"."""
    rows, _, cols = shape.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) > 0 and int(cols) > 0 and int(cols) % 256 == 0):
        raise click.UsageError(f"--shape {shape}: give ROWSxCOLUMNS, columns a multiple of 256, such as 6144x4096")
    return int(rows), int(cols)


def show(rows: Sequence[Row]) -> None:
    table = Table(title=f"{rows[0].shape}, medians of {len(rows[0].us)} rounds")
    for name in ("format", "configuration", "µs", "GB/s", "% of read bandwidth", f"over {BASE}"):
        table.add_column(name, justify="left" if name in ("format", "configuration") else "right")
    for row in rows:
        d = row.document()
        share, ratio = f"{100 * d['share_of_read']:.1f}", f"{d['share_over_q4_0']:.3f}"
        table.add_row(row.format, row.kind, f"{d['us']:.2f}", f"{d['gb_s']:.0f}", share, ratio)
    screen.print(table)


@click.command()
@click.argument("names", nargs=-1, metavar="[FORMAT]...")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@click.option("--shape", "shapes", multiple=True, default=SHAPES, show_default=True, help="ROWSxCOLUMNS; repeatable.")
@click.option("--tune", "seconds", type=click.FloatRange(min=0), default=0, help="Seconds of search for each product.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Samples of each.")
@click.option("--activation", type=click.Choice(["int16", "int8"]), default="int16", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="On a processor. [default: its cores]")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: benchmarks/CHIP/formats.json]")
def main(
    names: tuple[str, ...], device: str, shapes: tuple[str, ...], seconds: float, rounds: int, activation: str,
    threads: int | None, out: Path | None,
) -> None:  # fmt: skip
    """Measure products in FORMATs (all block formats if none is given) beside Q4_0.

    Example: scripts/bench_formats Q4_K IQ4_XS --device cuda:0 --tune 30
    """
    known = [name for name, fmt in formats.FORMATS.items() if fmt.quantized]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no block format is called {', '.join(unknown)}; known: {', '.join(known)}")
    wanted = [BASE, *(name for name in names or known if name != BASE)]
    sizes = [size_of(shape) for shape in shapes]
    side = Cpu(threads) if device == "cpu" else Cuda(int(device.partition(":")[2] or 0))
    results: list[Row] = []
    for rows, cols in sizes:
        problems = [Matvec(rows, cols, name, activation) for name in wanted]
        chosen = [(problem, "default", side.default(problem)) for problem in problems]
        if seconds:
            found = tuned(problems, device, seconds)
            chosen += [(problem, "tuned", found[problem]) for problem in problems]
        measured = measure(side, chosen, rounds)
        show(measured)
        results += measured
    words = ["scripts/bench_formats", *names, f"--device={device}", f"--tune={seconds:g}", f"--rounds={rounds}"]
    document = {
        "command": shlex.join(words), "device": {"name": device, "chip": side.chip}, "versions": versions(),
        "activation": activation, "results": [row.document() for row in results],
    }  # fmt: skip
    target = out or ROOT / "benchmarks" / facts.chip_folder(side.chip) / "formats.json"
    facts.write(target, document)
    screen.print(f"written to {target}")


if __name__ == "__main__":
    main()
