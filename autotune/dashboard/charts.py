"""Lays charts out as coordinates for the SVG template, in pixels from the top left; knows no colours."""

from dataclasses import dataclass
from typing import Any

from autotune.dashboard.memory_chart import memory_shapes
from autotune.dashboard.page_elements import XY, Bars, Chart, MemoryChart, Spans, significant
from autotune.dashboard.scales import Scale, scale

WIDTH, HEIGHT = 600, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 10, 40
ROW, GAP = 13, 7  # a bar's height, and between rows
LETTER = 6.9  # the width of one at 12 pixels, about
LONGEST = 46  # letters of a label


@dataclass(frozen=True)
class Drawing:
    """shapes: (kind, attributes) in the order they are painted; legend: (class, name)."""

    width: int
    height: int
    shapes: tuple[tuple[str, dict[str, Any]], ...]
    legend: tuple[tuple[str, str], ...] = ()


def draw(chart: Chart) -> Drawing:
    if isinstance(chart, XY):
        return _xy(chart)
    if isinstance(chart, MemoryChart):
        return Drawing(*memory_shapes(chart))
    return _bars(chart) if isinstance(chart, Bars) else _spans(chart)


def _xy(chart: XY) -> Drawing:
    y = scale((p[1] for s in chart.series for p in s.points), HEIGHT - BOTTOM, TOP, chart.y.log, chart.y.zero, 5)
    left = max(LEFT, 29 + round(max((len(significant(tick, 3)) for tick in y.ticks), default=0) * LETTER))
    x = scale((p[0] for s in chart.series for p in s.points), left, WIDTH - RIGHT, chart.x.log, chart.x.zero)
    shapes = [*_vertical_grid(x, TOP, HEIGHT - BOTTOM, chart.x.title), *_horizontal_grid(y, left, chart.y.title)]
    for number, series in enumerate(chart.series):
        tone = f"s{number % 6}"
        places = [(x(px), y(py), text) for px, py, text in series.points]
        if series.kind == "dots":
            shapes += [("dot", {"x": px, "y": py, "tone": tone, "tip": text}) for px, py, text in places]
        elif places:
            path = f"M{places[0][0]:g} {places[0][1]:g}"
            for px, py, _ in places[1:]:
                path += f"H{px:g}V{py:g}" if series.kind == "steps" else f"L{px:g} {py:g}"
            shapes.append(("path", {"d": path, "tone": tone, "dashed": series.dashed}))
    legend = tuple((f"s{number % 6}", series.name) for number, series in enumerate(chart.series))
    return Drawing(WIDTH, HEIGHT, tuple(shapes), legend)


def _bars(chart: Bars) -> Drawing:
    left = _label_width([label for label, _ in chart.rows])
    sides = len(chart.sides)
    height = TOP + len(chart.rows) * (ROW * sides + GAP) + BOTTOM
    values = [v for _, row in chart.rows for v in row if v is not None] + [value for value, _ in chart.marks]
    x = scale(values, left, WIDTH - 58, zero=True, most=5)
    shapes = _vertical_grid(x, TOP, height - BOTTOM, chart.x.title)
    for place, (label, row) in enumerate(chart.rows):
        top = TOP + place * (ROW * sides + GAP) + GAP / 2
        middle = top + ROW * sides / 2 + 4
        name = chart.full[place] if chart.full else label
        shapes.append(("label", {"x": left - 8, "y": middle, "text": _cut(label), "tip": name, "anchor": "end"}))
        for side, value in enumerate(row):
            if value is None:
                continue
            text, at = significant(value, 3), top + side * ROW
            tip = f"{name}, {chart.sides[side]}: {text} {chart.x.unit}"
            width = round(x(value) - x(0.0), 1)
            shapes.append(("bar", {"x": x(0.0), "y": at, "w": width, "h": ROW - 2, "tone": f"s{side % 6}", "tip": tip}))
            shapes.append(("label", {"x": x(0.0) + width + 5, "y": at + 10, "text": text, "anchor": "start"}))
    for value, text in chart.marks:
        shapes.append(("mark", {"x": x(value), "y1": TOP, "y2": height - BOTTOM, "tip": text}))
    legend = tuple((f"s{side % 6}", name) for side, name in enumerate(chart.sides)) if sides > 1 else ()
    return Drawing(WIDTH, height, tuple(shapes), (*legend, *(("mark", text) for _, text in chart.marks)))


def _spans(chart: Spans) -> Drawing:
    left = _label_width([track for track, _ in chart.rows])
    height = TOP + len(chart.rows) * (ROW + GAP) + BOTTOM
    values = [t for _, spans in chart.rows for b, e, _ in spans for t in (b, e)] + [value for value, _ in chart.marks]
    x = scale(values, left, WIDTH - RIGHT, zero=chart.x.zero, most=5)
    shapes = _vertical_grid(x, TOP, height - BOTTOM, chart.x.title)
    for place, (track, spans) in enumerate(chart.rows):
        top = TOP + place * (ROW + GAP) + GAP / 2
        shapes.append(("label", {"x": left - 8, "y": top + 10, "text": _cut(track), "tip": track, "anchor": "end"}))
        for begin, end, text in spans:
            width = max(0.5, round(x(end) - x(begin), 1))
            shapes.append(("bar", {"x": x(begin), "y": top, "w": width, "h": ROW, "tone": "s0", "tip": text}))
    shapes += [("mark", {"x": x(value), "y1": TOP, "y2": height - BOTTOM, "tip": text}) for value, text in chart.marks]
    return Drawing(WIDTH, height, tuple(shapes), tuple(("mark", text) for _, text in chart.marks))


def _vertical_grid(x: Scale, top: float, bottom: float, title: str) -> list[tuple[str, dict[str, Any]]]:
    shapes: list[tuple[str, dict[str, Any]]] = []
    for tick in x.ticks:
        shapes.append(("grid", {"x1": x(tick), "x2": x(tick), "y1": top, "y2": bottom}))
        shapes.append(("label", {"x": x(tick), "y": bottom + 15, "text": significant(tick, 3), "anchor": "middle"}))
    shapes.append(("axis", {"x": (x.begin + x.end) / 2, "y": bottom + 33, "text": title}))
    return shapes


def _horizontal_grid(y: Scale, left: int, title: str) -> list[tuple[str, dict[str, Any]]]:
    shapes: list[tuple[str, dict[str, Any]]] = []
    for tick in y.ticks:
        shapes.append(("grid", {"x1": left, "x2": WIDTH - RIGHT, "y1": y(tick), "y2": y(tick)}))
        shapes.append(("label", {"x": left - 7, "y": y(tick) + 4, "text": significant(tick, 3), "anchor": "end"}))
    shapes.append(("upright", {"x": 14, "y": (y.begin + y.end) / 2, "text": title}))
    return shapes


def _label_width(labels: list[str]) -> int:
    return round(min(max((len(label) for label in labels), default=4), LONGEST) * LETTER) + 20


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
