"""Lists of all metrics of a profile's launches: what the launches have in common is kept once."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuning_db.profile_records import KernelLaunch, Metric

EXACT = 1e15  # whole numbers below are written in full


@dataclass(frozen=True)
class MetricLists:
    """pack: a line for each metric: name, unit and, where all launches have the same value, that value, between tabs;
    values: of each launch, those of the other metrics in the pack's order, "" for one that it has not."""

    pack: bytes
    values: tuple[tuple[str, ...], ...]


def metric_lists(launches: Sequence[KernelLaunch]) -> MetricLists:
    """Of launches of one profile, metrics in the order of their names."""
    texts = [{name: _text(metric) for name, metric in launch.metrics.items()} for launch in launches]
    units = {name: metric.unit for launch in launches for name, metric in launch.metrics.items()}
    lines, varying = [], []
    for name in sorted(units):
        found = {text.get(name, "") for text in texts}
        start = f"{_clean(name)}\t{_clean(units[name])}"
        if len(found) == 1:
            lines.append(f"{start}\t{found.pop()}")
        else:
            lines.append(start)
            varying.append(name)
    values = tuple(tuple(text.get(name, "") for name in varying) for text in texts)
    return MetricLists("\n".join(lines).encode(), values)


def _text(metric: Metric) -> str:
    if isinstance(metric.value, str):
        return _clean(metric.value)
    if metric.value.is_integer() and abs(metric.value) < EXACT:
        return f"{metric.value:,.0f}"
    return f"{metric.value:.5g}"


def _clean(text: str) -> str:
    """Without what separates values and lines."""
    return " ".join(text.split())
