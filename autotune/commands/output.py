"""Prints results as tables or as one JSON document; formats the numbers in them."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console

    from kernel_templates.device import Device

PIPE_WIDTH = 200  # a file or a pipe has no edge to wrap at, and rich would assume 80 columns

SHARE = "% of read bandwidth"
"""Heading of a bandwidth's share of the device's measured read bandwidth."""

TOLD_S = 10.0  # between two notes of how far a command is
LEAST_WIDTH = 10  # of a column of text in a narrow terminal


def clean(text: str) -> str:
    """Without characters that a terminal would obey: names come from files that anybody may have written."""
    return "".join(c if c.isprintable() else " " for c in text)


def line(text: str) -> None:
    """One line on stdout."""
    click.echo(clean(text))


def note(text: str) -> None:
    """A line for the reader, not part of the result: where nobody reads it the command goes on."""
    with suppress(OSError):
        click.echo(clean(text), err=True)


def said_at_times(what: str) -> Callable[..., None]:
    """What is told how many are done, and of how many if that is known, and notes it now and then."""
    told = time.monotonic()

    def report(done: int, of: int | None = None) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_S:
            told = time.monotonic()
            note(f"{done}{'' if of is None else f' of {of}'} {what}")

    return report


def print_json(document: Any) -> None:
    """The one document of `--json`. NaN and infinity, which JSON lacks, become null."""
    click.echo(json.dumps(_finite(document), indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[str] = ()) -> None:
    """A table on stdout; the columns named in `numeric` are aligned to the right and never cut."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(clean(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    rows = [[clean(cell) for cell in row] for row in rows]
    for index, name in enumerate(columns):
        # In a narrow terminal headings wrap and text folds, down to a width that can still be read.
        word = max(map(len, name.split()))
        widest = max(word, *(len(row[index]) for row in rows)) if rows else word
        justify: Literal["left", "right"] = "right" if name in numeric else "left"
        least = widest if name in numeric else min(widest, LEAST_WIDTH)
        table.add_column(escape(name), justify=justify, min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        line(f"{name:<{width}}  {value}")


def console(stderr: bool = False) -> "Console":
    """rich's console on stdout or stderr as they are now."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Shows on stderr what a long command does: beside a spinner on a terminal, else a line each."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield note
        return
    with screen.status("starting") as status:
        yield lambda step: status.update(step)


def counted(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")


def micros(nanoseconds: float | None) -> str:
    if nanoseconds is None or nanoseconds != nanoseconds:
        return "–"
    return f"{nanoseconds / 1e3:.{1 if nanoseconds >= 1e4 else 2}f}"


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def spread(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f}–{values[1]:.1f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def ratio(before: float | None, after: float | None) -> str:
    return f"{before / after:.2f}×" if before and after and before == before else "–"


def settings(config: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(config.items()))


def device_document(device: "Device") -> dict[str, Any]:
    """A Device for JSON."""
    return {
        "backend": device.backend,
        "chip": device.chip,
        "capability": device.capability,
        "units": device.units,
        "memory_bytes": device.memory_bytes,
        "versions": dict(device.versions),
        "fingerprint": device.fingerprint,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
