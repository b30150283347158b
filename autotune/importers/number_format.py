"""Decides once for a CSV which character separates decimals, and rewrites its numbers as `units.number` reads them.

Nsight Compute prints numbers in the system's locale: 250.112 is a quarter of a thousand where the point separates
decimals, and a quarter of a million where it separates thousands. Separators are a property of the file, so one cell
that allows one reading only settles all of them: two points in it, a comma that fewer or more than three digits follow.
Where no cell does, what a column counts may: a percentage is not in thousands, the sizes of a launch are whole. Else
the file is refused, because a guess would be wrong by a factor of 1000.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from autotune import UserError

IsHeader = Callable[[Sequence[str]], bool]


class Decimal(StrEnum):
    """What separates decimals; the values of the option `--decimal`."""

    POINT = "point"
    COMMA = "comma"


OPTION = f"say --decimal {Decimal.COMMA} or --decimal {Decimal.POINT}"
_SPACES = " \u00a0\u2009\u202f'\u2019"  # thousands of French, Swiss and other locales
# The most frequent cells, which need no further look.
_AS_IT_IS = {
    Decimal.POINT: re.compile(r"(?:-?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?)?"), Decimal.COMMA: re.compile(r"\d*"),
}  # fmt: skip
# A thousands group has three digits, but for those that the locales of India print with a comma. None begins with 0.
_NUMBERS = {
    decimal: re.compile(
        rf"[+-]?(?:\d+(?:{mark}\d+)?(?:[eE][+-]?\d+)?|[1-9]\d{{0,2}}(?:{groups}|(?:[{_SPACES}]\d{{3}})+)(?:{mark}\d+)?)"
    )
    for decimal, mark, groups in (
        (Decimal.POINT, r"\.", r"(?:,\d{2,3})*,\d{3}"), (Decimal.COMMA, ",", r"(?:\.\d{3})+"),
    )
}  # fmt: skip
# A cell of numbers alone: one, one with those of its instances, "4.19 (2.09; 2.10)", or a size, "(128, 1, 1)".
_CELL = re.compile(rf"[-+\d.,;()%eE{_SPACES}]*\d[-+\d.,;()%eE{_SPACES}]*")
_TOKEN = re.compile(rf"[+-]?\d(?:\d|[.,{_SPACES}](?=\d))*(?:[eE][+-]?\d+)?")
_TEXT = frozenset(
    {
        "Kernel Time", "CC", "Metric Unit", "Rule Type", "Rule Description", "Device", "Operation", "Style", "Domain",
        "Id:Domain:Start/Stop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg",
        "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg",
        "config", "status", "run_id",
    }
)  # fmt: skip
_WHOLE_UNITS = frozenset(
    {
        "ns", "nsecond", "byte", "inst", "cycle", "block", "thread", "warp", "sector", "request", "register/thread",
        "byte/block",
    }
)  # fmt: skip
# Nsight Systems prints sizes in these with three decimals.
_THREE_DECIMALS = frozenset({"KB", "MB", "GB", "KiB", "MiB", "GiB", "MB/s", "GB/s", "KB/s", "MiB/s", "GiB/s"})
_WHOLE_NAMES = re.compile(
    r"device__attribute_.*|launch__(?:grid|block|cluster)_(?:size|dim_[xyz])|launch__thread_count|(?:Grid|Block) Size|"
    r"Threads|ID|Context|Stream|Instances|Count|Invocations|CorrId|(?:Grd|Blk)[XYZ]"
)


def readings(text: str) -> frozenset[Decimal]:
    """How one number can be read: both ways where it has no separator, or one with three digits after it."""
    return frozenset(decimal for decimal, pattern in _NUMBERS.items() if pattern.fullmatch(text))


def settled(path: Path, rows: Iterable[list[str]], is_header: IsHeader, option: Decimal | None) -> Decimal:
    """What separates decimals in a file with these rows, its headers among them.

    Raises UserError where nothing settles it and numbers differ by the answer.
    """
    if option is not None:
        return option
    votes: dict[Decimal, str] = {}
    unclear = ""
    for column, cell in _cells(rows, is_header):
        for token in _tokens(cell):
            found = readings(token)
            if len(found) == 1:
                return next(iter(found))
            if found and ("." in token or "," in token):
                vote = column.meaning(token)
                unclear = unclear or (f'"{token}"' + (f" ({column.name})" if column.name else ""))
                if vote is not None:
                    votes.setdefault(vote, token)
    if len(votes) == 1:
        return next(iter(votes))
    if votes:
        texts = " and ".join(f'"{token}"' for token in votes.values())
        raise UserError(f"{path} has {texts}, which disagree about what separates decimals; {OPTION}")
    if unclear:
        raise UserError(f"{path} has numbers that can be read in two ways, such as {unclear}; {OPTION}")
    return Decimal.POINT


def rewritten(path: Path, rows: Iterable[list[str]], is_header: IsHeader, decimal: Decimal) -> Iterator[list[str]]:
    """The rows with a point for decimals in every number. Raises UserError for a number that has no such reading."""
    numeric: list[int] | None = None
    as_it_is = _AS_IT_IS[decimal].fullmatch
    for row in rows:
        if numeric is None or is_header(row):
            numeric = [place for place, name in enumerate(row) if not _is_text(name)]
        else:
            for place in numeric:
                cell = row[place] if place < len(row) else ""
                if cell and not cell.isdigit() and not as_it_is(cell):
                    row[place] = _rewritten(path, cell, decimal)
        yield row


def _rewritten(path: Path, cell: str, decimal: Decimal) -> str:
    if not _CELL.fullmatch(cell):
        return cell
    if cell.startswith("("):
        sizes = _sizes(cell)
        return "(" + ", ".join(_rewritten(path, size, decimal) for size in sizes) + ")" if sizes else cell

    def canonical(found: re.Match[str]) -> str:
        token = found[0]
        possible = readings(token)
        if not possible:
            return token
        if decimal not in possible:
            other = next(iter(possible))
            raise UserError(
                f'{path} has "{token}", no number where a {decimal} separates decimals; say --decimal {other}'
            )
        groups, mark = (",", ".") if decimal is Decimal.POINT else (".", ",")
        for each in (*_SPACES, groups):
            token = token.replace(each, "")
        return token.replace(mark, ".")

    return _TOKEN.sub(canonical, cell)


class _Column:
    """What a number counts, by its column's name and unit."""

    def __init__(self, name: str, unit: str):
        self.name, self.unit = name, unit

    def meaning(self, token: str) -> Decimal | None:
        """The reading of a number with one separator and three digits after it that what it counts allows."""
        point = "." in token
        if self.unit == "%":
            return Decimal.POINT if point else Decimal.COMMA
        if self.unit in _THREE_DECIMALS:
            return Decimal.POINT if point else Decimal.COMMA
        if _WHOLE_NAMES.fullmatch(self.name):
            return Decimal.COMMA if point else Decimal.POINT
        # Sums of bytes or nanoseconds are whole, and a comma in one is of thousands. A point may be either: there are
        # programs that write fractions of them.
        exact = self.name.endswith((".sum", ".max", ".min")) or "__" not in self.name
        return Decimal.POINT if exact and self.unit in _WHOLE_UNITS and not point else None


def _cells(rows: Iterable[list[str]], is_header: IsHeader) -> Iterator[tuple[_Column, str]]:
    """Every cell that may be a number, with its column; in a table of one metric a row, with its metric."""
    header: list[str] = []
    columns: list[_Column] = []
    metric = unit = -1
    for row in rows:
        if not header or is_header(row):
            header = row
            columns = [_of_header(name) for name in header]
            named = "Metric Name" in header and "Metric Unit" in header
            metric, unit = (header.index("Metric Name"), header.index("Metric Unit")) if named else (-1, -1)
        elif len(row) == len(header) and not row[0] and metric < 0:  # Nsight Compute's row of units
            columns = [_Column(name, text) for name, text in zip(header, row, strict=True)]
        else:
            for place, cell in enumerate(row[: len(header)]):
                if not _is_text(header[place]) and cell and not cell.isdigit():
                    whole = len(row) > max(metric, unit) and metric >= 0 and "Size" not in header[place]
                    yield (_Column(row[metric], row[unit]) if whole else columns[place]), cell


def _of_header(name: str) -> _Column:
    """A column such as "Total Time (ns)" or "Time(%)"."""
    found = re.fullmatch(r"(.*?) ?\(([^()]+)\)", name)
    return _Column(found[1], {"nsec": "ns"}.get(found[2], found[2])) if found else _Column(name, "")


def _is_text(column: str) -> bool:
    return column in _TEXT or column.endswith(("Name", "Range"))


def _tokens(cell: str) -> list[str]:
    if not _CELL.fullmatch(cell):
        return []
    return [token for part in (_sizes(cell) if cell.startswith("(") else [cell]) for token in _TOKEN.findall(part)]


def _sizes(cell: str) -> list[str]:
    """The parts of "(128, 1, 1)"; none of "(1,128,128)", where a comma is no part of a number."""
    parts = cell.strip("()").split(", ")
    return parts if len(parts) == 3 else []
