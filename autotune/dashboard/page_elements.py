"""The elements of a page: words, tables, charts. A chart knows its own table, so that no chart is without one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

_PLAIN = re.compile(r"-?[\d,]+(\.\d+)?(e[+-]?\d+)?[×%]?")


@dataclass(frozen=True)
class Column:
    """about: the metric's name and unit or the number's formula, shown with the heading; wraps: its texts are long
    names, which take several lines rather than be cut."""

    name: str
    about: str = ""
    numeric: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Cell:
    """value: what the column is sorted by; href: "#..." inside the page; tone: "good", "bad" or "quiet"; tip: what a
    reader sees on touching it, such as a name in full."""

    text: str
    value: float | None = None
    href: str | None = None
    tone: str = ""
    tip: str = ""

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
    """Horizontal bars. rows: (label, one value for each of `sides`, None where there is none); twin: as of `XY`; full:
    the labels in full, where they are shortened."""

    title: str
    x: Axis
    sides: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    marks: tuple[tuple[float, str], ...] = ()
    twin: str = ""
    full: tuple[str, ...] = ()

    def table(self) -> Table:
        columns = [Column("bar"), *(Column(f"{side}, {self.x.title}", "", True) for side in self.sides)]
        rows = [(Cell(label), *(number_cell(v) for v in values)) for label, values in self.rows]
        if self.full:
            columns.append(Column("in full", "", False, True))
            rows = [(*row, Cell(name)) for row, name in zip(rows, self.full, strict=True)]
        return Table(self.title, tuple(columns), tuple(rows))


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


@dataclass(frozen=True)
class Level:
    """A memory or a cache of a GPU. hits: share of 1, None if unknown or without meaning; busy: share of 1 of its
    peak throughput."""

    name: str
    hits: float | None = None
    busy: float | None = None


@dataclass(frozen=True)
class MemoryChart:
    """Levels from the multiprocessor outwards, with the bytes between neighbours. reads, writes: one fewer than levels,
    towards the multiprocessor and away from it, None where unknown; beside: a level that only the first knows (shared
    memory), with what passes between them in words, "" if unknown."""

    title: str
    levels: tuple[Level, ...]
    reads: tuple[float | None, ...]
    writes: tuple[float | None, ...]
    beside: Level
    beside_text: str
    seconds: float | None = None
    twin: str = ""

    def table(self) -> Table:
        columns = (
            Column("level"), Column("hit rate", "share of the sectors found there", True),
            Column("busy", "% of peak throughput", True),
            Column("read from it", "bytes, towards the multiprocessor", True),
            Column("written to it", "bytes, from the multiprocessor", True), Column("remark"),
        )  # fmt: skip
        rows = [
            (
                Cell(level.name), percent_cell(level.hits, "", 1), percent_cell(level.busy, "", 1),
                number_cell(read, 0), number_cell(written, 0), Cell(""),
            )
            for level, read, written in zip(self.levels, (None, *self.reads), (None, *self.writes), strict=True)
        ]  # fmt: skip
        unknown = number_cell(None)
        rows.append(
            (Cell(self.beside.name), unknown, percent_cell(self.beside.busy, "", 1), unknown, unknown,
             Cell(self.beside_text))
        )  # fmt: skip
        return Table(self.title, columns, tuple(rows))


Chart = XY | Bars | Spans | MemoryChart


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


@dataclass(frozen=True)
class MetricList:
    """All metrics of a launch, searchable. pack: the page's pack with their names and units, and the values that all
    launches share; values: the others, one a line, in the pack's order ("" where this launch has none)."""

    caption: str
    pack: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class TraceView:
    """Events over time on a canvas, to zoom and pan. pack: the page's pack with the events (`trace_packing`); summary:
    in words, what a reader without the picture learns; legend: (tone, name)."""

    title: str
    pack: str
    summary: str
    rows: int
    legend: tuple[tuple[str, str], ...]


Block = Words | Table | XY | Bars | Spans | MemoryChart | Remarks | Listing | MetricList | TraceView


@dataclass(frozen=True)
class Detail:
    """A part shown only on request, packed in the file until then. id: an HTML id without blanks."""

    id: str
    label: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """question: what the page is for; answer: the sentence it opens with; pick: what the details are, such as "run";
    packs: data that scripts of the page read, by name; wide: it takes the window's whole width."""

    id: str
    title: str
    question: str
    answer: str
    blocks: tuple[Block, ...]
    pick: str = ""
    details: tuple[Detail, ...] = field(default=())
    packs: Mapping[str, bytes] = field(default_factory=dict)
    wide: bool = False


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
