#!/usr/bin/env python
"""Write docs/cli.md from the help texts of the command line, or check with --check that it is up to date.

Example: scripts/cli_reference
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from autotune.cli import COMMANDS, cli

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100  # of the help texts, whatever the terminal of whoever runs this


def commands(group: click.Group, parent: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Every command under `group` with its context, a group before what is in it."""
    for name in COMMANDS if group is cli else group.commands:
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH)
        yield command, context
        if isinstance(command, click.Group):
            yield from commands(command, context)


def reference() -> str:
    """The whole page."""
    settings = cli.context_settings
    root = click.Context(cli, info_name="autotune", max_content_width=WIDTH, terminal_width=WIDTH, **settings)
    parts = [
        "# Command line",
        "Written by `scripts/cli_reference` from the help texts; edit those instead. Whatever a user can cause is one "
        "line on stderr and exit code 2; Ctrl-C keeps what was done and gives 130. `AUTOTUNE_DEBUG=1` shows the "
        "traceback of an error.",
    ]
    for command, context in [(cli, root), *commands(cli, root)]:
        parts.append(f"## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail when the page is not what the help texts say.")
def main(check: bool) -> None:
    """Write docs/cli.md.

    Example: scripts/cli_reference --check
    """
    if not check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(reference(), encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != reference():
        sys.exit(f"{TARGET.name} is out of date; run scripts/cli_reference")


if __name__ == "__main__":
    main()
