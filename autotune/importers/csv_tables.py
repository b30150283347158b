"""Tables in what a profiler printed as CSV: several in one file, among lines that are none of them.

What a program and its profiler say goes to the same place as the table: before it, behind it, and between two of them.
A line that begins as no row of the table does is no row; one that does has as many cells as the header, or the file is
damaged, or ends there. What separates cells is a property of the file: the comma that the tools print, a tab (nsys
stats --format tsv), or the semicolon of programs that saved the table again where the comma separates decimals.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autotune.importers import files, number_format, units
from autotune.importers.number_format import IsHeader

AGAIN = "export it again"
NO_UTF8 = "is damaged or in an old encoding: it is no UTF-8 text"
TO_UTF8 = "export it again, or convert it with iconv -f WINDOWS-1252 -t UTF-8"
SEPARATORS = ",;\t"
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
    return any(_separator(line, is_header) for line in head.decode("utf-8", "replace").splitlines())


def _rows(path: Path, is_header: IsHeader) -> Iterator[tuple[list[str], str | None]]:
    """Rows from the first header on; a header with the line before it, other rows with None."""
    begun = False
    try:
        separator = next((found for line in text_lines(path) if (found := _separator(line, is_header))), ",")
        lines = _Lines(path, is_header, separator)
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True):
            if is_header(row):
                begun = True
                yield row, lines.said
                lines.said = ""
            elif row:
                yield row, None
    except UnicodeDecodeError:
        raise files.unusable(path, NO_UTF8, TO_UTF8) from None
    except csv.Error as error:
        if begun and lines.at_end and lines.began == lines.number:
            yield [""], None  # the file ends within the last line's cell: a row that is too short
            return
        raise files.unusable(path, f"is damaged in line {lines.number} ({error})", AGAIN) from None


class _Lines:
    """The lines of a file that are rows. said: the last other line; number: of the line that was read last; began: of
    the one in which its row begins; at_end: whether there are no more."""

    def __init__(self, path: Path, is_header: IsHeader, separator: str) -> None:
        self._lines, self._is_header, self._path, self._separator = text_lines(path), is_header, path, separator
        self._header: list[str] = []
        self._quoted = self._inside = False
        self._numbered: bool | None = None  # whether rows begin with a number, None before the first
        self.said, self.number, self.began, self.at_end = "", 0, 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._lines, None)
            if line is None:
                self.at_end = True
                raise StopIteration
            self.number += 1
            self.began = self.began if self._inside else self.number
            if self._inside or self._is_row(line):
                self._inside ^= line.count('"') % 2 == 1  # a quoted cell goes on in the next line
                return line
            self.said = line.strip() or self.said

    def _is_row(self, line: str) -> bool:
        first, separated, _ = line.partition(self._separator)
        if separated and self._is_header(cells := _cells(line, self._separator)):
            self._header, self._quoted, self._numbered = cells, line.startswith('"'), None
            return True
        if not self._header or not line.strip():
            return False
        few = len(self._header) // 2
        if self._quoted and not line.startswith('"'):
            if line.count(f'"{self._separator}"') >= few:
                raise files.unusable(self._path, f"is damaged in line {self.number}: no row begins so", AGAIN)
            return False
        if not self._quoted and (_SAID.match(line) or not (separated or units.number(line) is not None)):
            return False
        counts = not (first := first.strip(' "')) or first[0] in "-0123456789"
        if self._numbered is None:
            self._numbered = counts
        return counts or not self._numbered or len(_cells(line, self._separator)) > few


def _separator(line: str, is_header: IsHeader) -> str:
    """What separates the cells of a header; "" for another line."""
    return next((mark for mark in SEPARATORS if mark in line and is_header(_cells(line, mark))), "")


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, or in UTF-16 as PowerShell writes it. Raises UserError."""
    if path.stat().st_size > files.LARGEST_TEXT:
        raise files.unusable(path, f"is larger than {files.LARGEST_TEXT:,} bytes", "export fewer launches")
    with path.open("rb") as raw:
        encoding = files.encoding_of(raw.read(files.ENOUGH))
    with path.open(encoding=encoding, newline="") as file:
        yield from _without_zeros(file, path)


def _without_zeros(lines: Iterable[str], path: Path) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise files.unusable(path, "is damaged: it has zero bytes in it", AGAIN)
        yield line
