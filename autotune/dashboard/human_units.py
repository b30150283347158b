"""Quantities as people read them: a number below 1,000 where a larger unit allows it, with that unit."""

from autotune.dashboard import page_elements as ui

_STEPS = {
    "ns": (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)),
    "byte": (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)),
    "byte/s": (("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12)),
    "hz": (("Hz", 1.0), ("kHz", 1e3), ("MHz", 1e6), ("GHz", 1e9)),
    "flop/s": (("flop/s", 1.0), ("kflop/s", 1e3), ("Mflop/s", 1e6), ("Gflop/s", 1e9), ("Tflop/s", 1e12)),
    "inst": (("inst", 1.0), ("k inst", 1e3), ("M inst", 1e6), ("G inst", 1e9)),
}  # fmt: skip


def human(value: float, unit: str, digits: int = 3) -> str:
    """`value` in the base unit "ns", "byte", "byte/s", "hz", "flop/s" or "inst": 4790000 ns is "4.79 ms". A unit
    without larger ones stays as it is."""
    steps = _STEPS.get(unit)
    if steps is None or value != value or abs(value) == float("inf"):
        space = "" if unit == "%" else " "
        return f"{ui.significant(value, digits)}{space}{unit}".rstrip()
    name, size = step_of(value, unit, digits)
    return f"{ui.significant(value / size, digits)} {name}"


def step_of(value: float, unit: str, digits: int = 3) -> tuple[str, float]:
    """The unit that `human` writes a finite value in, and its size in base units."""
    steps = _STEPS[unit]
    # 999.9 rounds to 1000, which the next unit says as 1: what counts is the number as it is written.
    return next(
        (step for step in steps if abs(float(f"{value / step[1]:.{digits}g}")) < 1000), steps[-1]
    )  # fmt: skip


def human_cell(value: float | None, unit: str, tone: str = "") -> ui.Cell:
    """A dash where the value is not known."""
    if value is None or value != value or abs(value) == float("inf"):
        return ui.Cell("–", None, None, "quiet")
    return ui.Cell(human(value, unit), value, None, tone)
