"""Tables in what a profiler printed as CSV: several in one file, among lines that are none of them.

What a program and its profiler say goes to the same place as the table: before it, behind it, and between two of them.
A line that begins as no row of the table does is no row; one that does has as many cells as the header, or the file is
damaged, or ends there.
"""

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autotune.importers import files, number_format, units
from autotune.importers.number_format import IsHeader

AGAIN = "export it again"
# What nsys stats and a shell's `time` print beside rows that are not in quotes.
_SAID = re.compile(r"==|\*\*|Processing \[|Generating |Using |SKIPPED|\[\d+/\d+\]|(?:WARNING|ERROR|Warning|Error)\b|#")


def has(*names: str) -> IsHeader:
    """A header with all these columns."""
    return lambda row: all(name in row for name in names)


@dataclass
class Table:
    """header: names of the columns; rows: each with as many cells, numbers with a point for decimals; title: the last
    line before the header, "" if there is none; cut: whether the file ends within a row of it."""

    header: list[str]
    title: str = ""
    rows: list[list[str]] = field(default_factory=list)
    cut: bool = False


def read(
    path: Path, is_header: IsHeader, decimal: number_format.Decimal | None = None,
    completed: Callable[[list[str], list[str]], list[str]] = lambda header, row: row,
) -> list[Table]:  # fmt: skip
    """Every table in a file whose header `is_header` knows. decimal: what separates decimals, None to find out;
    completed: (header, row) -> the row with the cells that a format leaves out at its end.

    Raises UserError for what is no such text, or where nothing tells how its numbers are to be read.
    """
    found: list[Table] = []
    rows: list[list[str]] = []
    titles: list[str] = []
    for row, title in _rows(path, is_header):
        rows.append(row)
        if title is not None:
            titles.append(title)
    mark = number_format.settled(path, rows, is_header, decimal)
    for place, row in enumerate(number_format.rewritten(path, rows, is_header, mark)):
        if is_header(row):
            found.append(Table(row, titles[len(found)]))
            continue
        row = completed(found[-1].header, row)
        if len(row) == len(found[-1].header):
            found[-1].rows.append(row)
        elif place == len(rows) - 1:
            found[-1].cut = True
        else:
            raise files.unusable(path, "is damaged: rows differ in length", AGAIN)
    return found


def head_has(head: bytes, is_header: IsHeader) -> bool:
    """Whether one line of a file's beginning (`files.head_of`) is such a header."""
    return any(is_header(_cells(line)) for line in head.decode("utf-8", "replace").splitlines() if "," in line)


def _rows(path: Path, is_header: IsHeader) -> Iterator[tuple[list[str], str | None]]:
    """Rows from the first header on; a header with the line before it, other rows with None."""
    lines = _Lines(path, is_header)
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if is_header(row):
                yield row, lines.said
                lines.said = ""
            elif row:
                yield row, None
    except UnicodeDecodeError:
        raise files.unusable(path, "is damaged: it is not UTF-8 text", AGAIN) from None
    except csv.Error as error:
        raise files.unusable(path, f"is damaged in line {lines.number} ({error})", AGAIN) from None


class _Lines:
    """The lines of a file that are rows. said: the last other line; number: of the line that was read last."""

    def __init__(self, path: Path, is_header: IsHeader) -> None:
        self._lines, self._is_header, self._path = text_lines(path), is_header, path
        self._header: list[str] = []
        self._quoted = self._inside = False
        self.said, self.number = "", 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._lines)
            self.number += 1
            if self._inside or self._is_row(line):
                self._inside ^= line.count('"') % 2 == 1  # a quoted cell goes on in the next line
                return line
            self.said = line.strip() or self.said

    def _is_row(self, line: str) -> bool:
        if "," in line and self._is_header(_cells(line)):
            self._header, self._quoted = _cells(line), line.startswith('"')
            return True
        if not self._header or not line.strip():
            return False
        if self._quoted:
            if not line.startswith('"') and line.count('","') >= len(self._header) // 2:
                raise files.unusable(self._path, f"is damaged in line {self.number}: no row begins so", AGAIN)
            return line.startswith('"')
        return not _SAID.match(line) and ("," in line or units.number(line) is not None)


def _cells(line: str) -> list[str]:
    return next(csv.reader([line]), [])


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, or in UTF-16 as PowerShell writes it. Raises UserError."""
    if path.stat().st_size > files.LARGEST_TEXT:
        raise files.unusable(path, f"is larger than {files.LARGEST_TEXT:,} bytes", "export fewer launches")
    with path.open("rb") as raw:
        encoding = "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        yield from _without_zeros(file, path)


def _without_zeros(lines: Iterable[str], path: Path) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise files.unusable(path, "is damaged: it has zero bytes in it", AGAIN)
        yield line
