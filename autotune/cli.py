"""The command line: `autotune COMMAND`. It parses, calls and prints; every command is also a library function.

A command is imported when it is asked for, and imports what it needs when it runs, so that `autotune --help` answers at
once.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from autotune.commands import output, signals
from autotune.commands.errors import one_line
from autotune.runner import bytecode

USER_ERROR, INTERRUPTED, NO_READER = 2, 130, 141  # the last two: 128 + SIGINT and 128 + SIGPIPE, as shells count


COMMANDS = (
    "devices", "tune", "screen", "precompile", "ops", "space", "generate", "chat", "bench", "precision", "cache", "db",
    "dashboard", "pull", "replay", "export", "import", "profile",
)  # fmt: skip
ELSEWHERE = {"ops": "spaces:ops", "space": "spaces:space", "import": "import_:import_"}
"""Module of `autotune.commands` and name in it, where these are not the command's own name."""


class Program(click.Group):
    """A group whose failures are one line on stderr. AUTOTUNE_DEBUG=1 lets them through with their traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = ELSEWHERE.get(cmd_name, f"{cmd_name}:{cmd_name}").partition(":")
        return getattr(importlib.import_module(f"autotune.commands.{module}"), name)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        extra.pop("standalone_mode", None)
        code: Any
        with _reported():
            try:
                code = super().main(args, prog_name or "autotune", standalone_mode=False, **extra)
            except SystemExit as ended:  # rich's own answer to a vanished reader is 1
                if not isinstance(ended.__context__, BrokenPipeError):
                    raise
                _forget_stdout()
                code = NO_READER
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        # `--help` prints here. click would end with 1, and since 8.5 without a word of why.
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            _forget_stdout()
            raise click.exceptions.Exit(NO_READER) from None

    def invoke(self, ctx: click.Context) -> Any:
        # click answers an interrupt and a vanished reader in its own words, so they are caught before it sees them.
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as interrupt:
            _say("autotune: interrupted")
            return 128 + interrupt.number if isinstance(interrupt, signals.Ended) else INTERRUPTED
        except BrokenPipeError:
            _forget_stdout()
            return NO_READER


@contextmanager
def _reported() -> Iterator[None]:
    try:
        with _rows_left_out_are_told():
            yield
    except click.Abort:
        _say("autotune: interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        text = one_line(error)
        if text is None or os.environ.get("AUTOTUNE_DEBUG") == "1":
            raise
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f" (see {error.ctx.command_path} --help)"
        _say(f"autotune: error: {text}{hint}")
        try:
            sys.stdout.flush()
        except OSError:  # what could not be written cannot be written at exit either, and has been said
            _forget_stdout()
        sys.exit(USER_ERROR)


@contextmanager
def _rows_left_out_are_told() -> Iterator[None]:
    """One line on stderr for each database with rows that make no sense."""
    told: set[Path] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        from tuning_db.errors import LeftOut  # here: `autotune --help` should not pay for the database

        if not isinstance(message, LeftOut):
            usual(message, category, *where, **more)
        elif message.path not in told:
            told.add(message.path)
            output.note(f"autotune: warning: {message}")

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = show
        yield


def _say(line: str) -> None:
    """On stderr, if that is still there: the terminal may be gone, or whoever read a pipe."""
    with suppress(OSError):
        click.echo(line, err=True)


def _open_streams() -> None:
    """A standard stream that was closed (`>&-`) reads and writes nothing. Otherwise the next file that is opened, such
    as the database, would take its number, and what is printed would go there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _forget_stdout() -> None:
    """Whoever read the output has gone (`| head`): say nothing, and let Python's last flush go nowhere."""
    with suppress(OSError, ValueError):  # a stream without a descriptor, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    "autotune",
    cls=Program,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="autotune", prog_name="autotune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Make quantized LLM inference fast on the machine you have.

    Tune a model's kernels once; every later run finds the winners in the tuning database and uses them.

    \b
    Example:
      autotune tune model.gguf
      autotune generate model.gguf -p "Once upon a time"
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """The console script."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks becomes "?", not an error in the middle of an answer.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    bytecode.keep()
    signals.install()
    cli.main(prog_name="autotune")
