"""The README's commands: each exists with its options; with `-m slow` they run, one after another."""

import ast
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import autotune
from autotune.cli import cli

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("readme_commands", ROOT / "scripts" / "readme_commands.py")
assert _spec and _spec.loader
readme_commands = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readme_commands)

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
COMMANDS = [
    pytest.param(part.strip(), id=f"{name}: {part.strip()[:60]}")
    for name, text in TEXTS.items()
    if name != "cli.md"  # generated from the commands themselves
    for line in readme_commands.commands(text)
    for part in line.split("&&")
]


def check(words: list[str]) -> None:
    """Raises click's error for a command or an option that there is not."""
    command: click.Command = cli
    # With its settings, which those below inherit: a command keeps the option of help that it is first asked for.
    context = click.Context(cli, info_name="autotune", **cli.context_settings)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


def test_there_are_commands() -> None:
    assert len(readme_commands.commands(TEXTS["README.md"])) > 10
    assert readme_commands.commands("```console\n$ a b  # why\nout\n$ c\n```\n$ d\n") == ["a b", "c"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists_with_its_options(command: str) -> None:
    first, *words = [word for word in shlex.split(command) if "=" not in word or not word.split("=")[0].isupper()]
    if first == "autotune":
        check(words)
    elif first.startswith("./scripts/"):
        assert os.access(ROOT / first, os.X_OK)


def test_what_is_not_there_is_seen() -> None:
    with pytest.raises(click.UsageError):
        check(["frob"])
    with pytest.raises(click.UsageError):
        check(["tune", "model.gguf", "--frob"])


def test_who_looks_commands_up_leaves_them_as_they_are() -> None:
    check(["db", "vacuum", "-h"])
    told = CliRunner().invoke(cli, ["db", "vacuum", "-h"]).stdout
    assert "Example:" in told and "-h, --help" in told


def test_python_uses_what_there_is() -> None:
    (block,) = readme_commands.blocks(TEXTS["README.md"], "python")
    used = {
        node.attr: node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name) and node.value.id == "autotune"
    }  # fmt: skip
    assert set(used) == {"tune", "load"} and all(callable(getattr(autotune, name)) for name in used)


@pytest.mark.slow
def test_the_commands_run() -> None:
    script = [sys.executable, ROOT / "scripts" / "readme_commands.py", "--python", sys.executable]
    done = subprocess.run(script, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("-- ran") >= 8
