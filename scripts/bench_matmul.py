"""A quantized matrix's product with many tokens, alone: each algorithm of the operation `matmul` beside the library.

Of every algorithm a few configurations are verified and timed: the template's default, what won for other shapes, what
was fast on an H200 before, and neighbours of the default. Kernels of all products compile meanwhile, in the order in
which they are needed, and each product gets an equal share of the time that is left. Then the best of each algorithm
and the library's product take turns, over copies of the weights that exceed the last cache (`matmul_worker`).

One token goes through `matvec`, as decoding does, and through the others beside. "library" among the algorithms expands
the matrix, each time, and asks the library then; the library alone has it expanded before. Bytes are those of the
matrix in its file and of activations once; a rate of the library's is over its own bytes.
"""

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import click
import matmul_worker
from peer import facts
from rich.console import Console
from rich.table import Table

from autotune import UserError
from autotune.commands import options
from autotune.runner import device_lock
from autotune.runner.protocol import Compiled, Failure, FinalistsCompared
from autotune.runner.versions import versions
from autotune.runner.worker_pool import WorkerPool
from autotune.runner.worker_process import WorkerDied, WorkerTimedOut
from autotune.samplers.candidates import neighbours
from autotune.screening import chips
from autotune.tuning import precompile, target
from autotune.tuning.candidate_runner import CandidateRunner, TuneError, generate_inputs_ahead
from autotune.tuning.problem_tuner import known_elsewhere
from autotune.tuning.target import TuneTarget
from autotune.tuning.tuner_base import SAMPLES
from kernel_templates import formats, registry
from kernel_templates.device import Device
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import SHARES
from kernel_templates.matvec.problem import Matvec
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from tuning_db import TuningDB, open_db
from tuning_db.records import Trial

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ("6144x4096", "4096x4096", "24576x4096", "4096x12288")  # of a layer of Qwen3-8B
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
FORMATS = ("Q4_0", "Q4_K")
MATVEC = "matvec"
LOOKED_AT = 20_000  # configurations, for one that an algorithm may begin with
UNLIKELY = 2  # configurations of an algorithm where another was far ahead
WIDE_FROM = 16  # tokens below which `wide` is such a one; for a single token all but `matvec` are
ROUNDS = 11  # of a comparison
FINAL_S = 0.7  # of a product, for that
COMPILE_S = 30.0  # large products take longer than a search would wait
BUSY_COMPILE_S = 600.0  # where nothing is measured, and the machine may be busy
THIN = ((4, 4, 1), (1, 8, 2), (1, 8, 1), (2, 4, 2), (1, 16, 1), (2, 8, 1))
"""(tiles, warps, steps ahead): fastest somewhere on an H200 (docs/log.md), and what is between."""
FEW = 64  # tokens up to which a program of `wide` has them all
WIDE_FEW = (
    (1, 4, 64, 1, 3, 3, 1), (2, 4, 64, 1, 2, 3, 2), (1, 8, 64, 1, 3, 2, 1), (1, 4, 64, 1, 3, 3, 2),
    (2, 4, 64, 1, 3, 3, 1), (2, 4, 64, 2, 2, 3, 2), (1, 4, 64, 2, 2, 2, 2), (1, 8, 64, 2, 2, 2, 2),
)  # fmt: skip
WIDE_MANY = (
    (1, 8, 256, 1, 3, 1, 1), (1, 4, 128, 1, 3, 2, 1), (1, 8, 256, 1, 3, 1, 2), (1, 4, 128, 1, 3, 2, 2),
    (2, 4, 64, 1, 3, 2, 2), (1, 8, 128, 1, 3, 1, 1), (2, 4, 64, 1, 3, 2, 1), (2, 8, 128, 1, 3, 1, 1),
    (1, 4, 128, 1, 2, 3, 1), (2, 4, 128, 1, 3, 1, 2), (1, 4, 64, 2, 2, 3, 2),
)  # fmt: skip
"""(tiles, warps, tokens of a program at most, steps ahead, stages, programs a multiprocessor at most, of which columns
are shared until there are as many, parts)."""
screen = Console(highlight=False, width=160)


@dataclass(frozen=True)
class Row:
    """One algorithm, or the library's product alone, of one shape, format and number of tokens; ns: of a call, q10 and
    q90 of its samples beside; state: what the device did meanwhile."""

    format: str
    shape: str
    tokens: int
    algorithm: str
    ns: float
    bytes: int
    ops: int
    config: Config | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    state: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        return {
            "format": self.format, "shape": self.shape, "tokens": self.tokens, "algorithm": self.algorithm,
            "us": round(self.ns / 1e3, 3), "us_q10_q90": [round(ns / 1e3, 3) for ns in self.spread],
            "tb_s": round(self.bytes / self.ns / 1e3, 6), "tflop_s": round(self.ops / self.ns / 1e3, 6),
            "config": None if self.config is None else dict(self.config), "state": self.state,
        }  # fmt: skip


@dataclass
class Found:
    """Of all products so far. notes: what could not be measured, and why; missing: products of which nothing was;
    tried: (problem, configuration, microseconds) of all that were timed before the comparisons."""

    library: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: int = 0
    tried: list[tuple[str, Config, float]] = field(default_factory=list)

    @property
    def in_order(self) -> list[Row]:
        """By shape, format and tokens."""
        shapes = list(dict.fromkeys(row.shape for row in self.rows))
        return sorted(self.rows, key=lambda row: (shapes.index(row.shape), row.format, row.tokens))


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


def algorithm_of(config: Config) -> str:
    return str(config.get("algorithm", MATVEC))


def algorithms(space: Space) -> tuple[str, ...]:
    return tuple(map(str, next((p.values for p in space.parameters if p.name == "algorithm"), (MATVEC,))))


def fast_before(problem: Problem, algorithm: str, free: Config, device: Device) -> Iterator[Config]:
    """Configurations of these lists for a product; free: one of the algorithm, for the other parameters."""
    if algorithm == "thin":
        for tiles, warps, ahead in THIN:
            yield Config({**free, "tiles": tiles, "warps": warps, "ahead": ahead, "ready": 0, "split": 1})
    if algorithm == "wide" and isinstance(problem, Matmul):
        for tiles, warps, most, ahead, stages, programs, parts in WIDE_FEW if problem.tokens <= FEW else WIDE_MANY:
            block = min(most, max(16, 1 << (problem.tokens - 1).bit_length()))
            count = -(-problem.rows // (16 * warps * tiles)) * -(-problem.tokens // block)
            enough = [s for s in SHARES if s * count <= programs * device.units and 2 * s * ahead * 128 <= problem.cols]
            yield Config(
                {
                    **free, "tiles": tiles, "warps": warps, "block": block, "ahead": ahead, "stages": stages,
                    "split": max(enough, default=1), "parts": parts,
                }
            )  # fmt: skip


def candidates(problem: Problem, chip: TuneTarget, db: TuningDB, most: int) -> list[Config]:
    """At most so many of each algorithm, the first of each in front."""
    space, known = chip.space(problem), known_elsewhere(db, chip, problem)
    each = []
    for name in algorithms(space):
        part = restricted(space, name) if name != MATVEC else space
        if part is None:
            continue
        first, before = part.default, list(fast_before(problem, name, part.default, chip.device))
        # What an algorithm would be by default that is not the default itself nobody has chosen.
        likely = [first, *before] if first == space.default or not before else [*before, first]
        likely[1:1] = [c for c in known if algorithm_of(c) == name]
        likely += neighbours(part, first)
        count = min(most, UNLIKELY) if is_unlikely(problem, name) else most
        each.append([c for c in dict.fromkeys(likely) if space.broken(c) is None][:count])
    return [config for turn in zip_longest(*each) for config in turn if config is not None]


def is_unlikely(problem: Problem, algorithm: str) -> bool:
    return isinstance(problem, Matmul) and problem.tokens < (WIDE_FROM if algorithm == "wide" else 2)


def in_order(names: Sequence[str], shapes: Sequence[tuple[int, int]], tokens: Sequence[int]) -> list[Problem]:
    """Every product. A run that is cut has seen each part of the range: every third number of tokens comes first."""
    found: list[Problem] = []
    for count in (*tokens[::3], *tokens[1::3], *tokens[2::3]):
        for rows, cols in shapes:
            for name in names:
                found += [Matvec(rows, cols, name)] if count == 1 else []
                found.append(Matmul(rows, cols, name, count))
    return found


def measure(
    problems: Sequence[Problem], chip: TuneTarget, most: int, budget_s: float, tell: Callable[[str], None]
) -> Iterator[Found]:
    """What is known after each product, within so many seconds. most: configurations of an algorithm."""
    found = Found(matmul_worker.NAMES[chip.device.backend], missing=len(problems))
    end = time.monotonic() + budget_s
    with ExitStack() as stack:
        stack.enter_context(device_lock.measuring(chip.identity, chip.name, tell))
        db = stack.enter_context(open_db(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "matmul.db"))
        program = chip.program if chip.separate_measurer else matmul_worker.COMMAND
        beside = matmul_worker.COMMAND if chip.separate_measurer else ()
        pool = WorkerPool(chip.compilers, chip.separate_measurer, program, target=chip.name, measurer=beside)
        stack.enter_context(pool)
        generate_inputs_ahead(problems, chip, pool, seed=0)
        runners = [CandidateRunner(problem, chip, pool, seed=0) for problem in problems]
        # Beside a processor's candidates nothing may compile.
        ahead = len(runners) if chip.separate_measurer else 1
        for runner in runners[:ahead]:
            _compile(runner, chip, db, most)
        for number, runner in enumerate(runners):
            if ahead == 1 and number:
                _compile(runner, chip, db, most)
            left = end - time.monotonic()
            # The first one waits for all that it has: until the compilers have started there is nothing else to do.
            until = time.monotonic() + left / (len(runners) - number) - FINAL_S if number else end
            if left < 0:
                break
            try:
                _measure(runner, until, found)
                found.missing -= 1
            except (TuneError, WorkerDied, WorkerTimedOut) as error:
                found.notes.append(f"{runner.problem.key}: {error}")
            runner.close()
            runner.forget()
            yield found


def _compile(runner: CandidateRunner, chip: TuneTarget, db: TuningDB, most: int) -> None:
    for config in candidates(runner.problem, chip, db, most):
        runner.compile(config)


def _measure(runner: CandidateRunner, until: float, found: Found) -> None:
    """Try what is compiled by then, of each algorithm one at least, and compare the best of each with the library.
    Raises TuneError if nothing works, WorkerDied and WorkerTimedOut."""
    while runner.is_compiling and not runner.target.separate_measurer:  # there the same process does both
        runner.worker_pool.wait(0.5)
    runner.await_inputs()
    runner.open()
    best: dict[str, tuple[float, Config]] = {}
    missing = set(algorithms(runner.target.space(runner.problem)))
    while runner.compiling and (time.monotonic() < until or missing):
        for config, compiled in runner.compiled(1.0):
            name = algorithm_of(config)
            if time.monotonic() >= until and name not in missing:
                continue
            trial = runner.trial(config, compiled, partial(runner.measure, config, SAMPLES))
            if trial.measurement is None:
                found.notes.append(_note(runner.problem, config, trial))
            else:
                missing.discard(name)
                found.tried.append((runner.problem.key, config, round(trial.measurement.median_ns / 1e3, 3)))
                best[name] = min(best.get(name, (float("inf"), config)), (trial.measurement.median_ns, config), key=_ns)
    if not best:
        raise TuneError("nothing works")
    configs = [config for _, config in best.values()]
    try:
        found.rows += _rows(runner, configs)
    except (TuneError, WorkerDied, WorkerTimedOut) as error:  # those that work, then
        found.notes.append(f"{runner.problem.key}: {error}; compared one by one")
        for config in configs:
            found.rows += _rows(runner, [config])


def _ns(timed: tuple[float, Config]) -> float:
    return timed[0]


def _note(problem: Problem, config: Config, trial: Trial) -> str:
    return f"{problem.key} {config.key}: {trial.outcome.value}, {trial.message}"


def _rows(runner: CandidateRunner, configs: Sequence[Config]) -> list[Row]:
    """Of configurations and, last, of the library, timed in turn; one token's library stands beside `matvec` alone."""
    problem, backend = runner.problem, runner.target.device.backend
    rows, cols, tokens = matmul_worker.sizes(problem)
    reply: FinalistsCompared = runner.compare_finalists(configs, ROUNDS)
    work, shape = registry.get(problem.op).work(problem), f"{rows}x{cols}"
    names = [*map(algorithm_of, configs), matmul_worker.NAMES[backend]]
    sizes = [*[work.bytes] * len(configs), matmul_worker.moved(problem, backend)]
    assert isinstance(problem, Matmul | Matvec)
    made = [
        Row(
            problem.format, shape, tokens, name, m.median_ns, size, 2 * rows * cols * tokens, config,
            (m.q10_ns, m.q90_ns), dict(m.state or {}),
        )
        for name, m, size, config in zip(names, reply.measurements, sizes, [*configs, None], strict=True)
    ]  # fmt: skip
    return made[:-1] if isinstance(problem, Matmul) and tokens == 1 else made


def compile_only(problems: Sequence[Problem], chip: TuneTarget, most: int) -> None:
    """Compile what would be measured, into the cache, and say what cannot be."""
    begun, seconds, failed = time.monotonic(), 0.0, 0
    with ExitStack() as stack:
        db = stack.enter_context(open_db(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "matmul.db"))
        pool = stack.enter_context(WorkerPool(chip.compilers, True, chip.program))
        runners = [CandidateRunner(problem, chip, pool, seed=0) for problem in problems]
        for runner in runners:
            _compile(runner, chip, db, most)
        for runner in runners:
            count = 0
            while runner.compiling:
                for config, answer in runner.compiled(1.0):
                    count += 1
                    if isinstance(answer, Compiled):
                        seconds += answer.seconds
                        continue
                    failed += 1
                    why = answer.message if isinstance(answer, Failure) else str(answer)
                    screen.print(f"[yellow]{runner.problem.key} {config.key}: {why}[/]")
            screen.print(f"{runner.problem.key}: {count} configurations")
    screen.print(
        f"{seconds:.0f} s of {chip.compilers} compilers in {time.monotonic() - begun:.0f} s; {failed} did not compile"
    )


def told(rows: Sequence[Row], library: str) -> str:
    """A line about one number of tokens: each algorithm, and how the fastest stands to the best."""
    ours = min((row for row in rows if row.algorithm != library), key=lambda row: row.ns)
    best = min(row.ns for row in rows)
    times = ", ".join(f"{row.algorithm} {row.ns / 1e3:.2f}" for row in rows)
    return f"{ours.shape} {ours.format}, {ours.tokens}: {times} µs; {ours.algorithm} {ours.ns / best:.2f}×"


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
    "--candidates", "most", type=click.IntRange(min=1), default=8, show_default=True,
    help="Configurations of each algorithm of each product; 1: the default, or what is likely best if it has none.",
)  # fmt: skip
@click.option(
    "--budget", type=click.FloatRange(min=0), default=200.0, show_default=True,
    help="Seconds for all. What was not measured by then is left out, and the file says so.",
)  # fmt: skip
@click.option("--arch", help="Compile what would be measured on such a GPU, sm_90 for instance; measure nothing.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: benchmarks/CHIP/matmul.json]")
@click.option("--tried", type=click.Path(dir_okay=False, path_type=Path), help="File for every configuration's time.")
def main(
    names: tuple[str, ...], device: str, shapes: list[tuple[int, int]], tokens: tuple[int, ...], most: int,
    budget: float, arch: str | None, out: Path | None, tried: Path | None,
) -> None:  # fmt: skip
    """Measure products of matrices in FORMATs (Q4_0 and Q4_K if none is given) with 1 to 2,048 tokens.

    Example: scripts/bench_matmul Q4_0 --shape 6144x4096 --candidates 16
    """
    known = [name for name, fmt in formats.FORMATS.items() if fmt.quantized]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no block format is called {', '.join(unknown)}; known: {', '.join(known)}")
    problems = in_order(names or FORMATS, shapes, tokens)
    try:
        if arch is not None:
            where = precompile.target_of(chips.chip(options.capability(arch, "bench_matmul")), target.cores())
            return compile_only(problems, replace(where, compile_s=BUSY_COMPILE_S), most)
        options.require(device)
    except (UserError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    chip = target.of(device)
    chip = replace(chip, compile_s=max(chip.compile_s, COMPILE_S))
    words = ["scripts/bench_matmul", *names, f"--device={device}", f"--candidates={most}", f"--budget={budget:g}"]
    words += [f"--shape={rows}x{cols}" for rows, cols in shapes if [f"{r}x{c}" for r, c in shapes] != list(SHAPES)]
    words += [f"--tokens={count}" for count in tokens if tokens != TOKENS]
    path = out or ROOT / "benchmarks" / facts.chip_folder(chip.device.chip) / "matmul.json"
    begun, found = time.monotonic(), None
    about = {
        "date": facts.here()["date"], "command": shlex.join(words),
        "device": {"name": device, "chip": chip.device.chip},
        "versions": versions() | dict(chip.device.versions), "candidates": most, "rounds": ROUNDS,
    }  # fmt: skip
    for found in measure(problems, chip, most, budget, screen.print):
        document = {
            **about, "library": found.library, "seconds": round(time.monotonic() - begun, 1), "missing": found.missing,
            "notes": found.notes, "results": [row.document() for row in found.in_order],
        }  # fmt: skip
        facts.write(path, document)
        if tried:
            facts.write(tried, {"tried": [(key, dict(config), us) for key, config, us in found.tried]})
        if found.rows:
            last = found.rows[-1]
            same = [r for r in found.rows if (r.format, r.shape, r.tokens) == (last.format, last.shape, last.tokens)]
            screen.print(f"{time.monotonic() - begun:6.1f} s  {told(same, found.library)}")
    if found is None:
        raise click.ClickException("nothing was measured in that time")
    for form, shape in dict.fromkeys((row.format, row.shape) for row in found.in_order):
        rows = [row for row in found.in_order if (row.format, row.shape) == (form, shape)]
        screen.print(table_of(form, shape, rows, found.library))
    for note in found.notes:
        screen.print(f"[yellow]{note}[/]")
    left_out = f"; {found.missing} of {len(problems)} products were not measured" if found.missing else ""
    screen.print(f"written to {path}{left_out}")


if __name__ == "__main__":
    main()
