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
    roofline,
    run,
    source,
    tables,
    token,
)


def pages(data: PageData) -> tuple[Page, ...]:
    """All pages in the order of the menu."""
    rooms = (overview, run, parameters, kernel, roofline, source, tables, token, precision, compare, provenance)
    return tuple(room.page(data) for room in rooms)
