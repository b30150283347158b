"""`autotune screen`: ranks a problem's configurations by their machine code, without measuring."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from autotune.screening.ranking import Verdict
    from autotune.screening.selection import Choice

SHOWN = 20  # of those kept and of those dropped each, in the table
NUMBERS = ("rank", "issue + wait µs", "bound µs", "registers", "occupancy", "rounds", "instructions", "loads")


@click.command()
@click.argument("op")
@click.option(
    "--problem", "fields", required=True, metavar="NAME=VALUE,...",
    help="Shapes and formats, as autotune db list prints them after the operation's name and a colon.",
)  # fmt: skip
@options.arch_option
@click.option(
    "--limit", type=click.IntRange(min=1), help="Most configurations to compile, drawn at random.  [default: all]"
)
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel compilers.  [default: one a core]")
@options.json_option
def screen(op: str, fields: str, arch: str | None, limit: int | None, jobs: int | None, as_json: bool) -> None:
    """Compile a problem's configurations and say which cannot win, and why.

    No GPU is needed. Every valid configuration is compiled, or --limit of them; registers, spills, shared memory,
    occupancy, width of loads and the mix of instructions are read from its machine code, and a lower bound on its time
    follows. Shown are those kept, the most promising first, and the reason why each other one was dropped.

    \b
    Example:
      autotune screen matvec --problem rows=4096,cols=1024,format=Q4_0,activation=int16 --arch sm_90 --limit 50
    """
    from autotune.runner.compile_all import compile_all
    from autotune.screening import chips, ranking, selection
    from autotune.tuning import target
    from kernel_templates import given_problem, registry

    try:
        problem = given_problem.parse(f"{op}:{fields}")
        capability = options.capability(arch, "screen")
        chip = chips.chip(capability)
        choice = selection.choose(registry.cuda_space(problem, chip.device), limit)
    except ValueError as error:
        raise UserError(str(error)) from None

    told = output.said_at_times("compiled")
    candidates = compile_all(problem, choice.configs, capability, jobs or target.cores(), told)
    verdicts = ranking.screen(candidates, registry.get(op).work(problem.typical).bytes, chip)
    if as_json:
        output.print_json(
            {
                "problem": problem.key, "arch": f"sm_{capability}", "chip": chip.name, "valid": choice.valid,
                "looked_at": choice.seen, "not_compiled": dict(choice.dropped),
                "candidates": [_row(rank, v) for rank, v in enumerate(verdicts, 1)],
            }
        )  # fmt: skip
    else:
        _show(problem.key, chip.name, choice, verdicts)


def _row(rank: int, verdict: "Verdict") -> dict[str, Any]:
    e = verdict.estimate
    return {
        "rank": rank,
        "config": dict(verdict.config),
        "kept": verdict.kept,
        "reason": verdict.reason,
        "bound_ns": e and e.bound,
        "limited_by": e and e.limit,
        "memory_ns": e and e.memory,
        "issue_ns": e and e.issue,
        "latency_ns": e and e.latency,
        "kernels": [
            {
                "name": k.resources.name, "digest": k.resources.digest, "programs": k.resources.programs,
                "threads": k.resources.threads, "registers": k.resources.registers, "spill_bytes": k.resources.spills,
                "shared_bytes": k.resources.shared, "resident_programs": k.occupancy.programs,
                "occupancy": k.occupancy.share, "occupancy_limit": k.occupancy.by, "rounds": k.rounds,
                "instructions": k.resources.code.instructions, "mix": k.resources.code.mix,
                "widest_load_bytes": k.resources.code.widest,
                "narrowest_load_bytes": k.resources.code.narrowest, "chain_cycles": k.resources.code.chain,
            }
            for k in verdict.kernels
        ],
    }  # fmt: skip


def _show(key: str, chip: str, choice: "Choice", verdicts: "Sequence[Verdict]") -> None:
    kept, dropped = [v for v in verdicts if v.kept], [v for v in verdicts if not v.kept]
    varied = [n for n in choice.configs[0] if len({config[n] for config in choice.configs}) > 1]
    output.line(f"{key} for {chip}")
    seen = f"{choice.seen:,} configurations{'' if choice.valid is not None else ' drawn from more'}"
    broken, compiled = sum(choice.dropped.values()), output.counted(len(verdicts), "other")
    click.echo(f"{seen}: {broken:,} break a constraint, {compiled} compiled")
    for reason, count in sorted(choice.dropped.items(), key=lambda pair: -pair[1]):
        click.echo(f"  {count:>9,} {reason}")
    output.print_table(
        f"{len(kept)} kept, those first that issue and wait least",
        (*NUMBERS, "bound by", "configuration"),
        [(str(i), *_cells(v), _varied(v, varied)) for i, v in enumerate(kept[:SHOWN], 1)],
        NUMBERS,
    )
    output.print_table(
        f"{len(dropped)} dropped ({output.percent(len(dropped) / max(1, len(verdicts)))})",
        ("bound µs", "reason", "configuration"),
        [(_bound(v), v.reason or "", _varied(v, varied)) for v in dropped[:SHOWN]],
        ("bound µs",),
    )
    if max(len(kept), len(dropped)) > SHOWN:
        output.note(f"only {SHOWN} of each are shown; --json has all of them")


def _bound(verdict: "Verdict") -> str:
    return output.micros(verdict.estimate.bound if verdict.estimate else None)


def _cells(verdict: "Verdict") -> tuple[str, ...]:
    assert verdict.estimate is not None
    kernels = verdict.kernels
    loads = "+".join(f"{k.resources.code.narrowest}–{k.resources.code.widest} B" for k in kernels)

    def each(value: Callable[[Any], object]) -> str:
        return "+".join(str(value(k)) for k in kernels)

    return (
        output.micros(verdict.estimate.busy), output.micros(verdict.estimate.bound),
        each(lambda k: k.resources.registers), each(lambda k: output.percent(k.occupancy.share)),
        each(lambda k: k.rounds), each(lambda k: k.resources.code.instructions), loads, verdict.estimate.limit,
    )  # fmt: skip


def _varied(verdict: "Verdict", names: Sequence[str]) -> str:
    return " ".join(f"{name}={verdict.config[name]}" for name in names)
