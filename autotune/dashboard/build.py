"""Builds the page, or a timeline for Perfetto, from the files."""

from collections.abc import Sequence
from pathlib import Path

from autotune import UserError
from autotune.dashboard.collect import collect
from autotune.dashboard.pages import pages
from autotune.dashboard.render import render
from autotune.dashboard.timeline import perfetto, timelines


def html(
    database: Path | None, against: Path | None = None, benchmarks: Sequence[Path] = (),
    precisions: Sequence[Path] = (), live: bool = False,
) -> str:  # fmt: skip
    """Raises UserError and DatabaseError."""
    data = collect(database, against, benchmarks, precisions)
    return render(pages(data), data.database.file.name, live)


def trace(database: Path | None, benchmarks: Sequence[Path] = ()) -> str:
    """Chrome's Trace Event Format. Raises UserError, also where nothing has times, and DatabaseError."""
    found = timelines(collect(database, None, benchmarks, traced=True))
    if not found:
        raise UserError("nothing has a timeline: give --bench FILE, or import a profile with start times")
    return perfetto(found)
