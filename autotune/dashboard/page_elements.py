"""The elements of a page: words, tables, charts. A chart knows its own table, so that no chart is without one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

_PLAIN = re.compile(r"-?[\d,]+(\.\d+)?(e[+-]?\d+)?[×%]?")


@dataclass(frozen=True)
class Column:
    """about: the metric's name and unit or the number's formula, shown with the heading."""

    name: str
    about: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """value: what the column is sorted by; href: "#..." inside the page; tone: "good", "bad" or "quiet"."""

    text: str
    value: float | None = None
    href: str | None = None
    tone: str = ""

    @property
    def sort(self) -> str | None:
        """`value` where the text does not tell it: the page reads numbers with commas, × and % itself."""
        if self.value is None or _PLAIN.fullmatch(self.text):
            return None
        return f"{self.value:.6g}"


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Axis:
    """unit: appended to the label in parentheses."""

    label: str
    unit: str = ""
    log: bool = False
    zero: bool = False

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Series:
    """points: (x, y, what a reader sees on touching it)."""

    name: str
    kind: Literal["dots", "steps", "line"]
    points: tuple[tuple[float, float, str], ...]
    dashed: bool = False


@dataclass(frozen=True)
class XY:
    """Points over two axes. twin: the caption of a table beside it that has all its values; "" for one of its own."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    twin: str = ""

    def table(self) -> Table:
        """Every point, by series."""
        rows = tuple(
            (Cell(series.name), number_cell(x), number_cell(y), Cell(text))
            for series in self.series
            for x, y, text in series.points
        )
        columns = (Column("series"), Column(self.x.title, "", True), Column(self.y.title, "", True), Column("point"))
        return Table(self.title, columns, rows)


@dataclass(frozen=True)
class Bars:
    """Horizontal bars. rows: (label, one value for each of `sides`, None where there is none); twin: as of `XY`."""

    title: str
    x: Axis
    sides: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    marks: tuple[tuple[float, str], ...] = ()
    twin: str = ""

    def table(self) -> Table:
        columns = (Column("bar"), *(Column(f"{side}, {self.x.title}", "", True) for side in self.sides))
        rows = tuple((Cell(label), *(number_cell(v) for v in values)) for label, values in self.rows)
        return Table(self.title, columns, rows)


@dataclass(frozen=True)
class Spans:
    """Horizontal spans, one row a track. rows: (track, ((begin, end, text), ...)); marks: (place, name)."""

    title: str
    x: Axis
    rows: tuple[tuple[str, tuple[tuple[float, float, str], ...]], ...]
    marks: tuple[tuple[float, str], ...] = ()
    twin: str = ""

    def table(self) -> Table:
        columns = (
            Column("track"),
            Column("from", self.x.title, True),
            Column("to", self.x.title, True),
            Column("what"),
        )
        rows = tuple(
            (Cell(track), number_cell(begin), number_cell(end), Cell(text))
            for track, spans in self.rows
            for begin, end, text in spans
        )
        return Table(self.title, columns, rows)


Chart = XY | Bars | Spans


@dataclass(frozen=True)
class Words:
    """A paragraph; as a heading if `heading`."""

    text: str
    heading: bool = False


@dataclass(frozen=True)
class Remarks:
    """Findings in words: (title, text, tone)."""

    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Listing:
    """Lines of code. rows: (number, text, samples, heat 0..9 or None, note, key); rows with the same key in the
    listings of one detail belong together."""

    caption: str
    heading: tuple[str, str]
    rows: tuple[tuple[str, str, str, int | None, str, str], ...]


Block = Words | Table | XY | Bars | Spans | Remarks | Listing


@dataclass(frozen=True)
class Detail:
    """A part shown only on request, packed in the file until then. id: an HTML id without blanks."""

    id: str
    label: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """question: what the page is for; answer: the sentence it opens with; pick: what the details are, such as "run"."""

    id: str
    title: str
    question: str
    answer: str
    blocks: tuple[Block, ...]
    pick: str = ""
    details: tuple[Detail, ...] = field(default=())


def number_cell(value: float | None, digits: int | None = None, unit: str = "", tone: str = "") -> Cell:
    """digits: None for four significant ones."""
    if value is None or value != value or abs(value) == float("inf"):
        return Cell("–", None, None, "quiet")
    text = significant(value) if digits is None else f"{value:,.{digits}f}"
    return Cell(f"{text}{unit}", value, None, tone)


def significant(value: float, digits: int = 4) -> str:
    """With thousands separated and no exponent between a millionth and a million billions."""
    if value == 0 or not 1e-6 <= abs(value) < 1e15:
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    decimals = len(text.partition(".")[2]) if "." in text and "e" not in text else 0
    return f"{float(text):,.{decimals}f}"


def percent_cell(share: float | None, tone: str = "", digits: int = 0) -> Cell:
    return Cell("–", None, None, "quiet") if share is None else Cell(f"{share:.{digits}%}", share, None, tone)


def micros_cell(nanoseconds: float | None) -> Cell:
    if nanoseconds is None or nanoseconds != nanoseconds:
        return Cell("–", None, None, "quiet")
    return number_cell(nanoseconds / 1e3, 1 if nanoseconds >= 1e4 else 2)


def link(text: str, target: str) -> Cell:
    return Cell(text, None, f"#{target}")


def texts(values: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(Cell(value) for value in values)
