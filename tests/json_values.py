"""Values of a JSON document replaced one at a time by whatever JSON can say, or removed."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

REMOVED = object()

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9),
    st.sampled_from([2**63, -(10**30), 1e308, 1e-320, "\ud800", "inf", "nan", "x" * 70_000, "yesterday", 0, -1]),
)  # fmt: skip
VALUES = st.one_of(
    _scalars,
    st.recursive(_scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3)),
    st.just(REMOVED),
)


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def put(whole: Any, place: tuple, value: Any) -> Any:
    """A copy with another value in one place."""
    changed = inner = copy.deepcopy(whole)
    for key in place[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed
