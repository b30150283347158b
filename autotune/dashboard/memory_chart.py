"""Lays out the memory chart: levels of the memory as boxes in a row, arrows with the bytes between them."""

from typing import Any

from autotune.dashboard.human_units import human
from autotune.dashboard.page_elements import Level, MemoryChart

BOX, SPACE, HIGH, TOP = 100, 64, 66, 8  # pixels: a box's width and height, the room between two, and above
HEAD = 6  # of an arrow
BELOW = 54  # between the first box and the one beneath it

Shape = tuple[str, dict[str, Any]]


def memory_shapes(chart: MemoryChart) -> tuple[int, int, tuple[Shape, ...]]:
    """Width, height and shapes, as `charts.Drawing` has them."""
    shapes: list[Shape] = []
    for place, level in enumerate(chart.levels):
        left = place * (BOX + SPACE) + 4
        shapes += _box(left, TOP, level)
        if place:
            begin, end = left - SPACE + 4, left - 4
            read, written = chart.reads[place - 1], chart.writes[place - 1]
            shapes += _arrow(end, begin, TOP + 24, read, "read", chart.seconds)
            shapes += _arrow(begin, end, TOP + 52, written, "written", chart.seconds)
    top = TOP + HIGH + BELOW
    shapes += _box(4, top, chart.beside)
    middle = 4 + BOX / 2
    shapes.append(("arrow", {"d": f"M{middle} {TOP + HIGH + 5}V{top - 5}"}))
    shapes.append(_label(middle + 10, TOP + HIGH + BELOW / 2 + 4, chart.beside_text or "not counted", "start"))
    width = len(chart.levels) * (BOX + SPACE) - SPACE + 8
    return width, top + HIGH + 8, tuple(shapes)


def _box(left: float, top: float, level: Level) -> list[Shape]:
    lines = [level.name]
    if level.hits is not None:
        lines.append(f"{level.hits:.1%} hits")
    if level.busy is not None:
        lines.append(f"{level.busy:.1%} busy")
    shapes: list[Shape] = [("box", {"x": left, "y": top, "w": BOX, "h": HIGH})]
    first = top + HIGH / 2 + 4 - 9 * (len(lines) - 1)
    return shapes + [_label(left + BOX / 2, first + 18 * number, text, "middle") for number, text in enumerate(lines)]


def _arrow(begin: float, end: float, y: float, size: float | None, what: str, seconds: float | None) -> list[Shape]:
    """From `begin` to `end`, the bytes above its line; touching them tells the rate."""
    back = HEAD if end < begin else -HEAD
    path = f"M{begin} {y}H{end}M{end + back} {y - 4}L{end} {y}L{end + back} {y + 4}"
    text = "–" if size is None else human(size, "byte")
    rate = f", {human(size / seconds, 'byte/s')}" if size is not None and seconds else ""
    tip = f"{what}: not counted" if size is None else f"{what}: {text}{rate}"
    return [("arrow", {"d": path}), _label((begin + end) / 2, y - 5, text, "middle", tip)]


def _label(x: float, y: float, text: str, anchor: str, tip: str = "") -> Shape:
    shape = {"x": x, "y": y, "text": text, "anchor": anchor}
    return "label", shape | ({"tip": tip} if tip else {})
