"""One chart without a browser: on the terminal, or as a PNG or SVG file.

plotext draws in a terminal's characters and depends on nothing; Matplotlib (of the extra "dashboard") writes the files.
"""

from pathlib import Path

from autotune import UserError
from autotune.dashboard.page_elements import XY, Series

SUFFIXES = (".png", ".svg")


def on_terminal(chart: XY, width: int, height: int, colours: bool) -> str:
    """Lines of text, `width` characters wide at most."""
    import plotext

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


def to_file(chart: XY, path: Path) -> None:
    """PNG or SVG by the file's ending, the same bytes for the same chart. Raises UserError and OSError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path.name} must end in {' or '.join(SUFFIXES)}")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("writing a picture needs Matplotlib: pip install 'autotune[dashboard]'") from None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "autotune"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for series in chart.series:
            xs, ys = _places(series)
            if series.kind == "dots":
                axes.plot(xs, ys, "o", label=series.name, alpha=0.6)
            else:
                axes.plot(xs, ys, label=series.name)
        axes.set(title=chart.title, xlabel=chart.x.title, ylabel=chart.y.title)
        for axis, scale in ((chart.x, axes.set_xscale), (chart.y, axes.set_yscale)):
            if axis.log:
                scale("log")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else {"Software": None})


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
