"""Draws charts without a page: on the terminal with plotext, or as an SVG file that looks as in the pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune import UserError
from autotune.dashboard.charts import LETTER, WIDTH, Drawing, draw
from autotune.dashboard.page_elements import XY, Series
from autotune.dashboard.render import environment
from autotune.dashboard.text_packing import without_controls

COLOURS = ("#2f6db3", "#c05a12", "#2c7f52", "#7a4bb5", "#b02f43", "#12757f")
TITLE, ENTRY = 28, 18  # pixels: the height of a title, and of a row of the legend
MARGIN = 12


@dataclass(frozen=True)
class Plot:
    """One chart's place in the file, in pixels. legend: (x, y, class, name) of each entry; head: what stands above the
    drawing."""

    top: float
    head: float
    title: str
    drawing: Drawing
    legend: tuple[tuple[float, float, str, str], ...]


def on_terminal(chart: XY, width: int, height: int, colours: bool) -> str:
    """Lines of text, `width` characters wide at most. Raises UserError where plotext is not installed."""
    try:
        import plotext
    except ImportError:
        raise UserError(
            "drawing on the terminal needs plotext: ./scripts/setup_env dashboard, or write a file: -o FILE.svg"
        ) from None
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, height)
    for series in sorted(chart.series, key=lambda series: series.kind == "dots"):  # dots over lines
        xs, ys = _places(series)
        signal = figure.signal(xs, ys, marker="•" if series.kind == "dots" else None).label(series.name)
        figure.draw(signal.lines(series.kind != "dots"))
    for name, axis in (("x", chart.x), ("y", chart.y)):
        figure.label(axis.title, axis=name)
        if axis.log:
            figure.ruler(name).scale("log")
    figure.title(chart.title)
    return figure.build().string(colorless=not colours)


def to_file(charts: Sequence[XY], path: Path) -> None:
    """An SVG, one chart below the other, the same bytes for the same charts. Raises UserError and OSError."""
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path.name} must end in .svg")
    plots, top = [], 0.0
    for chart in charts:
        drawing = draw(chart)
        legend, head = _legend(drawing)
        plots.append(Plot(top, head, chart.title, drawing, legend))
        top += head + drawing.height
    template = environment().get_template("plot.svg.j2")
    text = template.render(plots=plots, width=WIDTH, height=round(top), colours=COLOURS)
    path.write_text(without_controls(text.lstrip()), encoding="utf-8")


def _legend(drawing: Drawing) -> tuple[tuple[tuple[float, float, str, str], ...], float]:
    """The entries in rows that are as wide as the chart, and the height of title and legend."""
    entries, x, y = [], float(MARGIN), float(TITLE + MARGIN)
    for tone, name in drawing.legend:
        width = 15 + len(name) * LETTER + 2 * MARGIN
        if x > MARGIN and x + width > WIDTH:
            x, y = float(MARGIN), y + ENTRY
        entries.append((x, y, tone, name))
        x += width
    return tuple(entries), y + MARGIN if entries else TITLE


def _places(series: Series) -> tuple[list[float], list[float]]:
    """Coordinates, with the corners of steps."""
    xs: list[float] = []
    ys: list[float] = []
    for x, y, _ in series.points:
        if series.kind == "steps" and ys:
            xs.append(x)
            ys.append(ys[-1])
        xs.append(x)
        ys.append(y)
    return xs, ys
