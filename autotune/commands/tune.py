"""`autotune tune`: search the kernels of one model on this machine, and keep the winners."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune import UserError
from autotune.commands import options, output, tune_output
from autotune.commands.tune_progress import TuneProgress
from autotune.runner import fork_server, worker_process
from autotune.samplers import SAMPLERS
from kernel_templates.cuda import early

if TYPE_CHECKING:
    from autotune.runner.timeline import Timeline
    from autotune.tuning.shared_studies import Studies
    from autotune.tuning.tuner_base import Tuned, TuneSettings
    from kernel_templates.problem import Chain, Problem
    from tuning_db import TuningDB


EACH = (
    "trials",
    "budget",
    "ops",
    "widths",
    "context",
    "cache",
    "sampler",
    "objective",
    "seed",
)  # options that every worker gets
CPU_TRIALS, CPU_BUDGET_S = 40, 75.0


@dataclass(frozen=True)
class Wanted:
    """What is to be tuned. alone: problems and how often a token runs each; layers: to be tuned in context, on a GPU;
    passes: the problems of passes over many tokens, and how often a pass runs each."""

    alone: "Mapping[Problem, int]" = field(default_factory=dict)
    layers: "Sequence[Chain]" = ()
    passes: "Mapping[Problem, int]" = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.alone) + len(self.layers) + len(self.passes)


@click.command()
@click.argument("model", metavar="MODEL.gguf|PROBLEM", type=click.Path(path_type=Path))
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Configurations to try per problem, those of earlier runs included.  [default: 40 on the cpu; on a GPU as "
    "many as the budget allows]",
)
@click.option(
    "--budget",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Time for all problems together; 0 sets no limit.  [default: 75 on the cpu, 150 on a GPU]",
)
@click.option("--op", "ops", metavar="NAME", multiple=True, help="Tune this operation only; may be given again.")
@options.widths_option()
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens that a GPU's attention is tuned up to.  [default: 4096, or the model's own if less]",
)
@options.cache_option
@click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
    default="pool",
    show_default=True,
    help="Sampler that proposes configurations.",
)
@click.option(
    "--objective",
    type=click.Choice(["time", "energy", "edp"]),
    default="time",
    show_default=True,
    help="What to make small: time, energy a call, or their product. Energy takes half a second more a trial.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed of the sampler."
)
@click.option(
    "--timeline",
    "timeline_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="On a GPU: write when each worker did what, as a trace that ui.perfetto.dev opens.",
)
@options.storage_option()
@click.option(
    "--devices",
    type=click.Choice(["all"]),
    help="A worker for every GPU here, all on one study: --storage's, else the database file itself.",
)
@options.device_option
@options.threads_option
@options.db_option
@options.json_option
def tune(
    model: Path, trials: int | None, budget: float | None, ops: tuple[str, ...],
    widths: tuple[str, ...], context: int | None, cache: str, sampler: str, objective: str, seed: int,
    timeline_path: Path | None,
    storage: str | None, devices: str | None, device: str, db_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Tune a model's kernels, or one problem's, for this machine.

    Every problem is tuned once, however many layers share it; on a GPU first alone, then in the captured layer. What
    reads many tokens at once, prompts unless --widths says otherwise, comes last, in three tenths of the time. Each
    trial is recorded as it is made: Ctrl-C keeps what was found, and the next run goes on from there. Where another
    process measures on the same device, this one waits for its end. PROBLEM is a key as `autotune db list` prints it;
    `autotune ops` lists the fields.

    \b
    Example:
      autotune tune model.gguf
      autotune tune model.gguf --device cuda:0
      autotune tune model.gguf --devices all
      autotune tune model.gguf --device cuda:0 --widths decode,prompt,batch --budget 300
      autotune tune model.gguf --op matvec --op ffn --budget 300 --trials 200
      autotune tune matvec:rows=576,cols=1536,format=Q4_0,activation=int16
    """
    if devices is not None:
        _for_each_gpu(model, storage, db_path)
        return
    options.writable(timeline_path, "--timeline")
    options.check_cache(cache, device)
    if device != options.CPU and early.has_driver():
        _begin(device)
    else:
        options.require(device)
    wanted = model_problems(model, ops, device, context, widths, cache)
    here = options.detect(device)
    if objective != "time":
        options.require_energy(device)
    from autotune.runner.timeline import Timeline
    from autotune.tuning.tuner_base import TuneSettings

    trials, budget_s = limits(device, trials, budget)
    with ExitStack() as stack:
        server = stack.enter_context(_shared_studies(storage)) if storage else None
        db = stack.enter_context(options.open_database(db_path, readonly=False))
        rows, in_context, many = [], [], []
        interrupted: KeyboardInterrupt | None = None
        try:
            on_cpu = device == options.CPU
            with TuneProgress(trials if on_cpu else None, None if on_cpu else budget_s) as progress:
                settings = TuneSettings(trials, budget_s, sampler, seed, progress.report, progress.tell, server)
                timeline = Timeline()
                try:
                    tuned = search(wanted, db, device, settings, objective, timeline)
                finally:
                    _write(timeline, None if on_cpu else timeline_path)
            rows = [tune_output.row(result) for result in tuned if result.problem in wanted.alone]
            in_context = [tune_output.layer_row(result) for result in tuned if result.problem in wanted.layers]
            many = [tune_output.row(result) for result in tuned if result.problem in wanted.passes]
        except KeyboardInterrupt as interrupt:
            interrupted = interrupt
            rows = tune_output.kept(db, here, wanted.alone)
            in_context = tune_output.kept(db, here, dict.fromkeys(wanted.layers, 1))
            many = tune_output.kept(db, here, wanted.passes)
        path = db.path
    if as_json:
        document = {
            "model": str(model),
            "device": output.device_document(here),
            "objective": objective,
            "database": str(path),
            "interrupted": interrupted is not None,
            "tuned": rows,
            "in_context": in_context,
            "passes": many,
        }
        output.print_json(document)
    else:
        every = (*rows, *in_context, *many)
        tune_output.show(rows, in_context, many, interrupted is not None)
        output.note(f"{len(every)} of {len(wanted)} problems have a winner in {path}")
        hurried = sum(row["source"] == "searched" and row["trials"] == 1 for row in every)
        if hurried and trials != 1:
            output.note(f"for {hurried} of them one configuration is all that was tried; --budget gives them more time")
    if interrupted is not None:
        raise interrupted


def _begin(device: str) -> None:
    """Start, the longest first, what goes on while the model's header is read. This process needs no torch itself."""
    worker_process.begin_measurer(device)
    fork_server.begin()


def _shared_studies(storage: str) -> "AbstractContextManager[Studies]":
    from autotune.tuning import shared_studies  # a server's libraries

    return shared_studies.opened(storage)


def limits(device: str, trials: int | None, budget: float | None) -> tuple[int | None, float | None]:
    """Trials a problem and seconds in all where a user gave these; None for no limit."""
    from autotune.tuning import tune_model

    on_cpu = device == options.CPU
    usual = CPU_BUDGET_S if on_cpu else tune_model.BUDGET_S
    return CPU_TRIALS if on_cpu and trials is None else trials, (usual if budget is None else budget) or None


def search(
    wanted: Wanted, db: "TuningDB", device: str, settings: "TuneSettings", objective: str = "time",
    timeline: "Timeline | None" = None,
) -> "list[Tuned]":  # fmt: skip
    """Tune the problems, then, on a GPU, the layers, and then the passes. Raises UserError when no configuration of one
    works."""
    from autotune.tuning import target, tune_model
    from autotune.tuning.candidate_runner import TuneError
    from tuning_db.records import Objective

    try:
        if device == options.CPU:
            return _on_cpu(wanted, db, settings)
        chip = replace(target.of(device), objective=Objective(objective))
        tuned, in_layers = tune_model.tune(wanted.alone, wanted.layers, db, chip, settings, timeline, wanted.passes)
        return [*tuned, *in_layers]
    except TuneError as error:
        raise UserError(str(error)) from error


def _on_cpu(wanted: Wanted, db: "TuningDB", settings: "TuneSettings") -> "list[Tuned]":
    """The passes get the share of the budget that they get on a GPU, and what the problems before left of theirs."""
    from autotune.tuning import sequential, tune_model

    begun, budget_s, found = time.monotonic(), settings.budget_s, []
    if wanted.alone:
        share = tune_model.token_share(True, bool(wanted.passes))
        part = settings if budget_s is None else replace(settings, budget_s=budget_s * share)
        found += sequential.tune(wanted.alone, db, part)
    if wanted.passes:
        left = None if budget_s is None else max(0.0, begun + budget_s - time.monotonic())
        found += sequential.tune(wanted.passes, db, replace(settings, budget_s=left))
    return found


def _for_each_gpu(model: Path, storage: str | None, db_path: Path | None) -> None:
    """This very command for each GPU. Raises UserError when a worker fails."""
    from autotune.commands import tune_devices

    names = tune_devices.gpus()
    with options.open_database(db_path, readonly=False) as db:
        path = db.path
    given = click.get_current_context()
    words = ["tune", str(model), "--db", str(path)]
    for parameter in given.command.params:
        value = given.params.get(parameter.name or "")
        own = isinstance(parameter, click.Option) and parameter.name in EACH and value not in (None, ())
        for entry in (value if isinstance(value, tuple) else (value,)) if own else ():
            words += [parameter.opts[0], str(entry)]
    output.note(f"a worker for each of {', '.join(names)}")
    if failed := tune_devices.run(names, words, storage or f"sqlite:///{path.absolute()}"):
        raise UserError(
            f"{output.counted(failed, 'worker')} of {len(names)} failed; what the others found is in {path}"
        )
    click.echo(f"tuned by {output.counted(len(names), 'worker')}; the winners are in {path}")


def _write(timeline: "Timeline", path: Path | None) -> None:
    if path is not None:
        try:
            timeline.write(path)
        except OSError as error:
            raise UserError(f"--timeline: {path} cannot be written: {error.strerror}; name another file") from None


def model_problems(
    path: Path,
    ops: tuple[str, ...],
    device: str,
    context: int | None,
    widths: Sequence[str] | None = None,
    cache: str = options.CACHES[0],
) -> Wanted:
    """What the model needs for each of the widths, or the part of it that `--op` names; or the one problem that `path`
    names. widths: None for the usual ones; cache: format of the KV cache. Raises UserError."""
    from kernel_templates import registry
    from model import problems
    from model import widths as passes
    from model.config import ModelConfig
    from model.engine import DEFAULT_CONTEXT
    from model.gguf_file import open_gguf

    for op in ops:
        if op not in registry.OPERATIONS:
            raise UserError(f"--op: no operation is called {op!r}; there are {', '.join(registry.OPERATIONS)}")
    if (named := options.named_problem(path)) is not None:
        return _one_problem(named, ops, device, cache)
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    capacity = min(DEFAULT_CONTEXT if context is None else context, config.context)
    chosen = tuple(widths or passes.USUAL)
    backend = options.CPU if device == options.CPU else "cuda"
    found: Mapping[Problem, int] = {}
    layers: list[Chain] = []
    if "decode" in chosen and backend == options.CPU:
        found = problems.model_problems(config, file)
    elif "decode" in chosen:
        found = problems.gpu_problems(config, file, capacity, cache)
        every = problems.gpu_layers(config, file, capacity, cache)
        layers = [layer for layer in every if not ops or layer.op in ops]
    many = passes.width_problems(config, file, capacity, chosen, backend, cache)

    def of_ops(some: "Mapping[Problem, int]") -> "dict[Problem, int]":
        return {problem: count for problem, count in some.items() if not ops or problem.op in ops}

    wanted = Wanted(of_ops(found), layers, of_ops(many))
    if not len(wanted):
        what = f"--op: this model has no {' or '.join(ops)}" if ops else f"--widths: {' and '.join(chosen)} has nothing"
        raise UserError(f"{what} to tune on {device}")
    return wanted


def _one_problem(named: "Problem", ops: tuple[str, ...], device: str, cache: str) -> Wanted:
    """As `model_problems`. A layer is a chain: tuned in context."""
    from kernel_templates import registry
    from kernel_templates.problem import Chain

    if ops:
        raise UserError("--op chooses among a model's problems; a problem names its own operation")
    if cache != options.CACHES[0]:
        raise UserError(f"--cache is about a model's problems; a problem names its own cache, as in cache={cache}")
    if isinstance(named, Chain):
        if device == options.CPU:
            raise UserError(f"{named.op} has no template for the cpu; give --device cuda:0, or tune its parts")
        return Wanted(dict.fromkeys(named.parts().values(), 1), [named])
    if not registry.has_template(named.op, options.CPU if device == options.CPU else "cuda"):
        raise UserError(f"{named.op} has no template for {device}; autotune ops lists what there is for which device")
    return Wanted({named: 1})
