"""`autotune profile`: profiles the kernels of a decode step or of one problem with Nsight Compute."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError
from autotune.commands import options, output

if TYPE_CHECKING:
    from autotune.profiling.recording import Call
    from kernel_templates.device import Device
    from kernel_templates.problem import Problem
    from tuning_db import TuningDB


@click.command()
@click.argument("subject", metavar="MODEL.gguf|PROBLEM")
@click.option(
    "--device", type=options.DeviceName(), default="cuda:0", metavar="cuda:0", show_default=True, help="GPU to run on."
)
@options.db_option
@options.json_option
def profile(subject: str, device: str, db_path: Path | None, as_json: bool) -> None:
    """Run Nsight Compute on one decode step of a model, or on one problem.

    Each distinct layer and the head of MODEL.gguf are launched once with their winners and once with the templates'
    defaults, on random weights; or PROBLEM, a key as `autotune db list` prints it. The clocks are left alone. What
    comes out is stored in the database. Where the counters may not be read, times and counted bytes have to do.

    \b
    Example:
      autotune profile model.gguf
      autotune profile matvec:rows=576,cols=576,format=Q4_1,activation=int16
    """
    from autotune.profiling import profile_problems

    if device == options.CPU:
        raise UserError("Nsight Compute profiles GPUs; give --device cuda:0")
    problems = _problems(subject)
    here = options.detect(device)
    with options.open_database(db_path, readonly=False) as db:
        calls = _calls(problems, here, db)
        done = profile_problems.profile(calls, here, device, db)
    if as_json:
        from dataclasses import asdict

        output.print_json(
            {
                "device": output.device_document(here),
                "times": list(done.times),
                "profiles": [asdict(summary) for summary in done.stored],
                "failure": done.failure,
            }
        )
        return
    _print_times(done.times)
    if done.failure:
        output.note(f"no counters: {done.failure}; these are times and counted bytes alone")
    for summary in done.stored:
        output.line(f"profile {summary.profile}: {summary.file}, {output.counted(summary.found, 'row')}")


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


def _calls(problems: "Sequence[Problem]", device: "Device", db: "TuningDB") -> "list[Call]":
    """Each problem with its default and, where the database has another configuration for it, with that."""
    from autotune.profiling.recording import Call
    from kernel_templates import registry
    from model.kernel_choices import choose

    choices = choose(problems, device, lambda p: registry.cuda_space(p, device), db)
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
