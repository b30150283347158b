"""Every command says what it is for and shows an example, and says so at once."""

import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from autotune import cli as program
from autotune.cli import cli

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "cache",
    "devices",
    "tune",
    "generate",
    "replay",
    "chat",
    "bench",
    "screen",
    "precompile",
    "export",
    "import",
    "precision",
    "profile",
    "db",
    "ops",
    "space",
    "db info",
    "db path",
    "db list",
    "db best",
    "db plot",
    "dashboard",
    "pull",
    *(f"db {name}" for name in ("explain", "schema", "repair", "export", "import", "merge", "prune", "vacuum")),
}


def walk(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in program.COMMANDS if group is cli else group.commands:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from walk(command, f"{prefix}{name} ")


COMMANDS = [("", cli), *walk(cli)]


def test_every_command_is_there() -> None:
    assert {name for name, _ in COMMANDS} == EXPECTED | {""}


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name or "autotune" for name, _ in COMMANDS])
def test_purpose_example_and_options(name: str, command: click.Command) -> None:
    purpose, _, rest = inspect.cleandoc(command.help or "").partition("\n")
    assert purpose.endswith(".") and len(purpose) < 80 and rest.startswith("\n"), purpose
    assert f"\n\b\nExample:\n  {('autotune ' + name).rstrip()} " in rest + " "
    assert not command.get_short_help_str(80).endswith("...")
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["tune", "--help"], ["db"], ["db", "list", "-h"]])
def test_help_is_help(autotune, words) -> None:
    result = autotune(*words)
    assert result.exit_code == 0 and "Usage: autotune" in result.stdout and "Example:" in result.stdout


def test_version(autotune) -> None:
    assert autotune("--version").stdout.startswith("autotune, version ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom autotune.cli import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'numpy', 'optuna', 'rich', 'scipy', 'sqlalchemy', 'jsonschema', 'sqlite_utils'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "scripts" / "cli_reference.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.reference(), "run scripts/cli_reference"
