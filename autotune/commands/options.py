"""Arguments and options that several commands share, and what their values open."""

import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune import UserError

if TYPE_CHECKING:
    from kernel_templates.device import Device
    from kernel_templates.problem import Problem
    from tuning_db import TuningDB

CPU = "cpu"
CACHES = ("f16", "q8_0")  # those of kernel_templates.attention.cache
WIDTHS = ("decode", "prompt", "batch", "speculate")  # those of model.widths, which takes its time to import


class DeviceName(click.ParamType):
    """`cpu`, or `cuda:0` and so on."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "cuda":
            return "cuda:0"
        if not re.fullmatch(r"cpu|cuda:\d{1,3}", value):
            self.fail(f"{value!r} is no device; give cpu or cuda:0.", param, ctx)
        return value


class WidthNames(click.ParamType):
    """Names of widths, comma-separated: `decode,prompt`."""

    name = "widths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(word.strip() for word in value.split(",")))
        if unknown := [name for name in names if name not in WIDTHS]:
            self.fail(f"no width is called {unknown[0][:40]!r}; give some of {','.join(WIDTHS)}.", param, ctx)
        return names


class MemorySize(click.ParamType):
    """Bytes as people write them: `8GB`, `7.5GiB`, `900MB`."""

    name = "size"
    UNITS: Mapping[str, int] = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(MB|GB|MiB|GiB)", value, re.IGNORECASE | re.ASCII)
        size = found and int(float(found[1]) * self.UNITS[found[2].upper()])
        if not size:
            self.fail(f"{value[:40]!r} is no size of memory; give 8GB or 900MB, for instance.", param, ctx)
        return size


TUNED = (
    "Tokens read in one go: decode, one; prompt, many of one text; batch, one of each of several texts; speculate, "
    "a few of one text and what follows each."
)


def widths_option(what: str = TUNED, default: str | None = "decode,prompt") -> Callable[..., Any]:
    """--widths, a tuple of names of `model.widths.WIDTHS`; None where there is no default and none is given."""
    return click.option(
        "--widths", type=WidthNames(), metavar="NAME,...", default=default, show_default=True, help=what
    )


model_argument = click.argument("model", metavar="MODEL.gguf", type=click.Path(path_type=Path))
db_option = click.option(
    "--db",
    "db_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Tuning database.  [default: $AUTOTUNE_DB, else tuning.db in the user's data directory]",
)
arch_option = click.option(
    "--arch", metavar="sm_90", help="Compute capability to compile for.  [default: that of the GPU here]"
)
device_option = click.option(
    "--device", type=DeviceName(), default=CPU, metavar="cpu|cuda:0", show_default=True, help="Device to run on."
)


def _remember_threads(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    """In the environment, where worker processes find it too; refused at once if there are fewer processors."""
    if value is not None:
        cores = os.cpu_count() or 1
        if value > cores:
            raise click.BadParameter(f"this machine has {cores} processors; give at most as many.", ctx, param)
        os.environ["AUTOTUNE_THREADS"] = str(value)


threads_option = click.option(
    "--threads", type=click.IntRange(min=1), expose_value=False, callback=_remember_threads,
    help="Most threads on the CPU; fewer run while other processes need the cores.  [default: $AUTOTUNE_THREADS, else "
    "the physical cores]",
)  # fmt: skip
nvtx_option = click.option(
    "--nvtx", is_flag=True,
    help="Mark a GPU's operations by name for nsys or ncu; kernels are then launched one by one, tokens slower.",
)  # fmt: skip

gpu_memory_option = click.option(
    "--gpu-memory", type=MemorySize(), metavar="SIZE",
    help="Most memory of the GPU for weights, cache and buffers, such as 8GB; CUDA itself takes some more. Experts of "
    "a mixture that do not fit stay in host memory.  [default: what is free]",
)  # fmt: skip


cache_option = click.option(
    "--cache", type=click.Choice(CACHES), default=CACHES[0], show_default=True,
    help="Format of the KV cache. q8_0: 8 bits in the place of 16, for more tokens in the same memory and more speed "
    "after many; on a GPU so far.",
)  # fmt: skip


speculate_option = click.option(
    "--speculate", type=click.Choice(["off", "ngram"]), default="off", show_default=True,
    help="ngram: propose the tokens that followed the last ones earlier in the text, and verify several in one pass, "
    "for texts that quote. Turns itself off where it is not faster. Sampled text keeps its distribution.",
)  # fmt: skip


def check_cache(cache: str, device: str) -> None:
    """Refuse a cache that a device has no kernels for, before anything is loaded. Raises UserError."""
    if cache != CACHES[0] and device == CPU:
        raise UserError(f"--cache {cache} is for a GPU so far; give --device cuda:0, or leave it out")


def storage_option(required: bool = False) -> Callable[..., Any]:
    """--storage, or $AUTOTUNE_STORAGE: a password on a command line is there for all to see."""
    return click.option(
        "--storage", envvar="AUTOTUNE_STORAGE", metavar="URL", required=required,
        help="Server that workers share, as postgresql://USER:PASSWORD@HOST/DATABASE; better in $AUTOTUNE_STORAGE, "
        "for a command line is there for all to see.",
    )  # fmt: skip


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, everything else on stderr."
)


def sampling_options(sampling: Mapping[str, float | int], tokens: int) -> Callable[..., Any]:
    """-n, --temperature, --top-k, --top-p, --seed, --context and --untuned, with a command's own defaults; sampling: by
    the name of a field of `model.sampling.Sampler`. What samples is None unless it is given: between it and the default
    stand the model file's own settings."""

    def default(name: str, key: str) -> str:
        return f"  [default: the file's general.sampling.{key}, else {sampling[name]}]"

    options = (
        click.option(
            "-n", "--tokens", type=click.IntRange(min=1), default=tokens, show_default=True,
            help="Most tokens to generate; the model may end earlier.",
        ),
        click.option(
            "--temperature", type=float,
            help="Sampling temperature; 0 always takes the likeliest token." + default("temperature", "temp"),
        ),
        click.option(
            "--top-k", type=int, help="Sample from this many likeliest tokens; 0 keeps all." + default("top_k", "top_k")
        ),
        click.option(
            "--top-p", type=float,
            help="Sample from the likeliest tokens that together have this probability." + default("top_p", "top_p"),
        ),
        click.option("--seed", type=int, help="Random seed: the same one gives the same text.  [default: a fresh one]"),
        click.option(
            "--context", type=click.IntRange(min=1),
            help="Most tokens of prompt and text together.  [default: 4096, or the model's own if less]",
        ),
        click.option("--untuned", is_flag=True, help="Ignore the database: run the templates' defaults."),
    )  # fmt: skip

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _template_variables(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE each, the value JSON or else a text."""
    from model.chat import GIVEN

    variables: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as enable_thinking=false.", ctx, param)
        if name in GIVEN:
            raise click.BadParameter(f"{name} is what the template is given anyway.", ctx, param)
        try:
            variables[name] = json.loads(value)
        except ValueError:
            variables[name] = value
        except RecursionError:
            raise click.BadParameter(f"the value of {name} nests too deeply.", ctx, param) from None
    return variables


template_option = click.option(
    "--template-arg", "template_args", multiple=True, metavar="NAME=VALUE", callback=_template_variables,
    help="Variable of the model's chat template, such as enable_thinking=false; VALUE is JSON, or else a text. May be "
    "repeated.",
)  # fmt: skip


def named_problem(subject: str | Path) -> "Problem | None":
    """The problem that a command's MODEL|PROBLEM names by its key; None where it names a file. Raises UserError."""
    from kernel_templates import given_problem, registry

    text = str(subject)
    if text.partition(":")[0] not in registry.OPERATIONS or Path(subject).exists():
        return None
    try:
        return given_problem.parse(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no problem ({error}); autotune ops lists the fields of each operation") from None


def open_database(path: Path | None, readonly: bool = True) -> "TuningDB":
    """The database that `--db` names, or the usual one; DatabaseError if it cannot be used."""
    from tuning_db import open_db

    return open_db(path, readonly=readonly)


def writable(target: Path | None, option: str) -> None:
    """Refuse an output file that is a database or a model already: it is more likely the input than to be replaced.
    Raises UserError."""
    try:
        with (target or Path(os.devnull)).open("rb") as file:
            head = file.read(16)
    except OSError:  # not there yet; or it will be said when it is written
        return
    beside = target is not None and target.name.endswith(("-wal", "-shm", "-journal"))
    if head == b"SQLite format 3\0" or head.startswith(b"GGUF") or beside:
        raise UserError(f"{option}: {target} is a database or a model and is not overwritten; name another file")


def require(device: str) -> None:
    """Refuse a device that cannot be used here, before anything is loaded. Raises UserError."""
    if device == CPU:
        from kernel_templates.cpu import machine

        try:
            machine.thread_count()
        except ValueError as error:  # AUTOTUNE_THREADS
            raise UserError(str(error)) from None
        return
    from kernel_templates.cuda import machine as gpus

    try:
        gpus.check(gpus.index_of(device))
    except gpus.DeviceError as error:
        raise _unusable(device, error) from None


def _unusable(device: str, error: Exception) -> UserError:
    return UserError(f"device {device} cannot be used: {error}")


def begin(device: str) -> None:
    """As `require`, but a GPU that has a driver is only begun with, and refused when a model is opened on it: what its
    start takes goes on while the model's header is read. Raises UserError."""
    from kernel_templates.cuda import early, lean_torch
    from kernel_templates.cuda import machine as gpus

    if device == CPU or not early.begin(gpus.index_of(device)):
        require(device)
    else:
        lean_torch.begin()


def alone(device: str) -> AbstractContextManager[None]:
    """While it is held no other process of this user measures on the device; a note says for whom this one waits."""
    from autotune.commands import output
    from autotune.runner import device_lock
    from autotune.tuning import target

    return device_lock.measuring(target.identity(device), device, output.note)


def require_energy(device: str) -> None:
    """Refuse a device that does not count its energy. Raises UserError."""
    counted = None
    if device != CPU:
        from autotune.runner.device_state import GpuWatch
        from kernel_templates.cuda import machine as gpus

        counted = GpuWatch(gpus.uuid(gpus.index_of(device))).joules()
    if counted is None:
        raise UserError(f"--objective: device {device} does not report its energy; use --objective time")


def detect(device: str) -> "Device":
    """The Device behind a name. Raises UserError when it cannot be used."""
    if device == CPU:
        from kernel_templates.cpu import machine

        require(device)
        return machine.detect()
    from kernel_templates.cuda import machine as gpus

    try:
        return gpus.detect(gpus.index_of(device))
    except gpus.DeviceError as error:
        raise _unusable(device, error) from None


def capability(arch: str | None, command: str) -> int:
    """90 for "sm_90", what `--arch` of a command that compiles names; without, that of the GPU here. Raises UserError,
    also where nothing can compile."""
    if importlib.util.find_spec("triton") is None:
        raise UserError(f"{command} compiles with Triton, which is not installed; ./scripts/setup_env cuda installs it")
    if arch is None:
        try:
            return int(detect("cuda:0").capability.replace(".", ""))
        except UserError as error:  # without the advice to use the CPU, which these commands cannot
            why = re.sub(r"[,;]? (or )?use --device cpu$", "", str(error))
            raise UserError(f"{why}; name one that need not be here: --arch sm_90, for instance") from None
    if not (found := re.fullmatch(r"sm_?(\d{2,3})a?", arch)):
        raise UserError(f"--arch: {arch!r} is no compute capability; give sm_90, for instance")
    return int(found[1])
