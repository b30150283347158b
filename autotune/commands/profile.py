"""`autotune profile`: profiles the kernels of a decode step or of problems with Nsight Compute."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from autotune.profiling.before_and_after import TwoTimes
    from autotune.profiling.recording import Call
    from kernel_templates.device import Device
    from kernel_templates.problem import Problem
    from tuning_db import TuningDB


LONGEST_NAME = 80


def _report_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.strip() and value.isprintable() and len(value) <= LONGEST_NAME):
        raise click.BadParameter(f"give up to {LONGEST_NAME} letters in one line.", ctx, param)
    return value


@click.command()
@click.argument("subjects", metavar="MODEL.gguf|PROBLEM...", nargs=-1, required=True)
@click.option(
    "--name", "title", metavar="NAME", callback=_report_name,
    help="What the page Compare calls this report, such as before or v2.  [default: the operations]",
)  # fmt: skip
@click.option("--untuned", is_flag=True, help="Profile the templates' defaults alone.")
@click.option(
    "--report", "keep", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Keep Nsight Compute's own report here too, for its window.",
)  # fmt: skip
@click.option(
    "--device", type=options.DeviceName(), default="cuda:0", metavar="cuda:0", show_default=True, help="GPU to run on."
)
@options.db_option
@options.json_option
def profile(
    subjects: tuple[str, ...], title: str | None, untuned: bool, keep: Path | None, device: str, db_path: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run Nsight Compute on one decode step of a model, or on problems.

    Each distinct layer and the head of MODEL.gguf are launched once with their winners and once with the templates'
    defaults, on random weights; or each PROBLEM, a key as `autotune db list` prints it. The clocks are left alone. What
    comes out is stored in the database. Where the counters may not be read, times and counted bytes have to do.

    The same again after a change, of the code or by tuning: what became better or worse is said, and the dashboard's
    page Compare says what changed.

    \b
    Example:
      autotune profile model.gguf
      autotune profile matvec:rows=576,cols=576,format=Q4_1,activation=int16 --name before
      autotune tune matvec:rows=576,cols=576,format=Q4_1,activation=int16 --device cuda:0
      autotune profile matvec:rows=576,cols=576,format=Q4_1,activation=int16 --name after
      autotune dashboard -o page.html
    """
    from autotune.profiling import before_and_after, profile_problems

    if device == options.CPU:
        raise UserError("Nsight Compute profiles GPUs; give --device cuda:0")
    options.writable(keep, "--report")
    if keep is not None and not os.access(keep.parent, os.W_OK):  # before a minute of profiling, not after it
        raise UserError(f"--report: {keep.parent} is no folder that can be written to; name another")
    problems = list(dict.fromkeys(problem for subject in subjects for problem in _problems(subject)))
    here = options.detect(device)
    with options.open_database(db_path, readonly=False) as db:
        calls = _calls(problems, here, db, untuned)
        done = profile_problems.profile(calls, here, device, db, title, keep)
        changes = _changes(before_and_after.since_last(db, done.stored[0].profile), db)
    if as_json:
        from dataclasses import asdict

        output.print_json(
            {
                "device": output.device_document(here),
                "times": list(done.times),
                "profiles": [asdict(summary) for summary in done.stored],
                "changes": list(changes),
                "report": None if done.kept is None else str(done.kept),
                "failure": done.failure,
            }
        )
        return
    _print_times(done.times)
    _print_changes(changes)
    if done.failure:
        output.note(f"no counters: {done.failure}; these are times and counted bytes alone")
    if done.kept is not None:
        output.note(f"Nsight Compute's report: {done.kept}")
    for summary in done.stored:
        output.line(f"profile {summary.profile}: {summary.file}, {output.counted(summary.found, 'row')}")
    if changes:
        output.line("What changed: autotune dashboard -o page.html, page Compare")


def _problems(subject: str) -> "list[Problem]":
    """The problems of a model's decode step, or one problem by its key."""
    if (named := options.named_problem(subject)) is not None:
        return [named]
    from model.config import ModelConfig
    from model.gguf_file import open_gguf
    from model.problems import gpu_layers, head_problem

    file = open_gguf(subject)
    config = ModelConfig.from_gguf(file)
    return [*gpu_layers(config, file, 1), head_problem(config, file)]


def _calls(problems: "Sequence[Problem]", device: "Device", db: "TuningDB", untuned: bool) -> "list[Call]":
    """Each problem with its default and, where the database has another configuration for it, with that."""
    from autotune.profiling.recording import Call
    from kernel_templates import registry
    from model.kernel_choices import choose

    choices = choose(problems, device, lambda p: registry.cuda_space(p, device), None if untuned else db)
    calls = []
    for problem, choice in choices.items():
        default = registry.cuda_space(problem, device).default
        calls.append(Call(problem.key, default, "default"))
        if choice.config != default:
            calls.append(Call(problem.key, choice.config, "winner"))
    return calls


def _print_times(times: "Sequence[Any]") -> None:
    rows = [
        (
            row["problem"], row["role"], output.micros(row["median_ns"]),
            output.number(row["bytes_needed"] / row["median_ns"]), output.settings(row["config"]),
        )
        for row in times
    ]  # fmt: skip
    numeric = ("µs", "GB/s")
    output.print_table("Profiled", ("problem", "with", *numeric, "configuration"), rows, numeric)


def _changes(found: "Sequence[TwoTimes]", db: "TuningDB") -> list[dict[str, Any]]:
    """Judged as the page Compare does: by the noise between repeats that the database has."""
    if not found:
        return []
    from autotune.dashboard.collect import read_runs
    from autotune.dashboard.noise import compare, estimate_noise

    noise = estimate_noise(read_runs(db))
    rows = []
    for two in found:
        judged = compare(two.before, two.after, noise)
        rows.append(
            {
                "problem": two.problem, "since": two.since, "before_ns": two.before.median_ns,
                "after_ns": two.after.median_ns, "ratio": judged.ratio, "low": judged.low, "high": judged.high,
                "verdict": judged.word,
            }
        )  # fmt: skip
    return rows


def _print_changes(changes: "Sequence[Mapping[str, Any]]") -> None:
    rows = [
        (
            row["problem"], output.micros(row["before_ns"]), output.micros(row["after_ns"]),
            output.number(row["ratio"], 3), row["verdict"], row["since"],
        )
        for row in changes
    ]  # fmt: skip
    if rows:
        numeric = ("µs before", "µs now", "ratio")
        output.print_table("Since it was profiled last", ("problem", *numeric, "verdict", "since"), rows, numeric)
