"""The pages, one file each: a page answers one question, and opens with the answer in words."""

from autotune.dashboard.page_data import PageData
from autotune.dashboard.page_elements import Page
from autotune.dashboard.pages import (
    compare,
    kernel,
    overview,
    parameters,
    precision,
    provenance,
    reports,
    roofline,
    run,
    source,
    systems,
    tables,
    token,
)


def pages(data: PageData) -> tuple[Page, ...]:
    """All pages in the order of the menu: what was imported comes first where nothing else has anything to show."""
    tuned, imported = (overview, run, parameters), (reports, systems, kernel, source, compare, roofline, tables)
    if data.database.profiles and not (data.database.winners or data.database.runs or data.benchmarks):
        rooms = (*imported, *tuned, token, precision, provenance)
    else:
        first = (overview, reports, systems, run, parameters)
        rooms = (*first, kernel, roofline, source, tables, token, precision, compare, provenance)
    return tuple(room.page(data) for room in rooms)
