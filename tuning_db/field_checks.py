"""Checks single values: what a column may hold, by type and range. True is not 1 here, and 32.0 is not 32.

A check takes a decoded value and raises ValueError, whose message completes the sentence "pid cannot be …". `Fields`
reads a JSON object of a foreign file through such checks.
"""

import math
import sys
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

Check = Callable[[Any], None]

INT64 = (-(1 << 63), (1 << 63) - 1)  # what SQLite can hold
COUNT = (0, (1 << 53) - 1)  # also exact as a float, and one more is still an integer of SQLite
FINITE = (-sys.float_info.max, sys.float_info.max)
PID = (0, (1 << 31) - 1)
VERSION = (0, (1 << 31) - 1)
# No kernel takes less than a picosecond or more than 11 days: outside, ratios and rates overflow.
NANOSECONDS = (1e-3, 1e15)
MICROJOULES = (1e-6, 1e18)
LONGEST_TEXT = 1 << 16
LONGEST_JSON = 1 << 20  # characters: the space of a layer has less than a tenth
DEEPEST = 32


_REQUIRED: Any = object()


class Fields:
    """The fields of one JSON object from a foreign file, each checked as it is taken. where: of the object in the file,
    for people. Raises ValueError, here and in every method, for what is missing or not what it has to be."""

    def __init__(self, value: Any, where: str = "") -> None:
        if type(value) is not dict:
            raise ValueError(f"{where or 'the document'} cannot be {shown(value)}, which is no object")
        self.values, self.where = value, where

    def take(self, name: str, check: Check, default: Any = _REQUIRED) -> Any:
        """The field's value, or the default where there is no such field."""
        value = self.values.get(name, default)
        if value is _REQUIRED:
            raise ValueError(f"{self.where or 'the document'} lacks {shown(name)}")
        if name in self.values:
            try:
                check(value)
            except ValueError as wrong:
                raise ValueError(f"{self._at(name)} cannot be {wrong}") from None
        return value

    def object(self, name: str, default: Any = _REQUIRED) -> "Fields":
        return Fields(self.take(name, any_value, default), self._at(name))

    def objects(self, name: str, default: Any = _REQUIRED) -> list["Fields"]:
        """Of a list."""
        found = self.take(name, list_of(any_value), default)
        return [Fields(value, f"{self._at(name)}/{place}") for place, value in enumerate(found)]

    def each(self) -> dict[str, "Fields"]:
        """Of an object of objects."""
        return {name: Fields(value, self._at(name)) for name, value in self.values.items()}

    def _at(self, name: str) -> str:
        return f"{self.where}/{shown(name)[1:-1]}".lstrip("/")


def flag(value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{shown(value)}, neither true nor false")


def any_value(value: Any) -> None:
    """For what is checked where it is used."""


def text(longest: int = LONGEST_TEXT, empty: bool = True) -> Check:
    def check(value: Any) -> None:
        if type(value) is not str:
            raise ValueError(f"{shown(value)}, which is no text")
        if len(value) > longest or not (value or empty):
            raise ValueError("empty" if not value else f"longer than {longest:,} characters")
        # SQLite and terminals take what UTF-8 can say; half a surrogate pair is not.
        if not value.isascii() and not _encodes(value):
            raise ValueError(f"{shown(value)}, which is no text")

    return check


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not int:
            raise ValueError(f"{shown(value)}, which is no integer")
        if not low <= value <= high:
            raise ValueError(f"{shown(value)}, which is out of range")

    return check


def number(low: float, high: float) -> Check:
    """Of either type; infinity only where a bound is infinite, never NaN, and no integer that SQLite cannot hold."""

    def check(value: Any) -> None:
        if type(value) not in (int, float):
            raise ValueError(f"{shown(value)}, which is no number")
        if not low <= value <= high or (type(value) is int and not INT64[0] <= value <= INT64[1]):
            raise ValueError(f"{shown(value)}, which is out of range")

    return check


def maybe(check: Check) -> Check:
    """What `check` takes, or nothing."""
    return lambda value: None if value is None else check(value)


def one_of(names: type[StrEnum]) -> Check:
    known = {str(name) for name in names}

    def check(value: Any) -> None:
        if type(value) not in (str, names) or value not in known:
            raise ValueError(f"{shown(value)}; it is one of {', '.join(known)}")

    return check


def date(value: Any) -> None:
    """A moment in ISO 8601 with its offset from UTC, as every timestamp here is."""
    try:
        if type(value) is str and len(value) <= 40 and 1970 <= _moment(value).year < 9999:
            return
    except ValueError:
        pass
    raise ValueError(f"{shown(value)}, which is no date")


def scalar(value: Any) -> None:
    """A parameter's value."""
    if type(value) is str:
        text()(value)
    elif type(value) is int:
        whole(*INT64)(value)
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{shown(value)}, which is not finite")
    elif type(value) not in (bool, float):
        raise ValueError(f"{shown(value)}, which is no single value")


def document(value: Any, depth: int = 0) -> None:
    """Whatever JSON can say, within bounds."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        mapping_of(lambda entry: document(entry, depth + 1))(value)
    elif isinstance(value, list):
        for entry in value:
            document(entry, depth + 1)
    elif value is not None:
        scalar(value)


def mapping_of(check: Check) -> Check:
    def look(value: Any) -> None:
        if type(value) is not dict:
            raise ValueError(f"{shown(value)}, which is no object")
        for name, entry in value.items():
            text()(name)
            check(entry)

    return look


def list_of(check: Check) -> Check:
    def look(value: Any) -> None:
        if type(value) is not list:
            raise ValueError(f"{shown(value)}, which is no list")
        for entry in value:
            check(entry)

    return look


def tuple_of(*checks: Check) -> Check:
    def look(value: Any) -> None:
        if type(value) not in (list, tuple) or len(value) != len(checks):
            raise ValueError(f"{shown(value)}, which is no list of {len(checks)}")
        for check, entry in zip(checks, value, strict=True):
            check(entry)

    return look


def float64s(value: Any) -> None:
    if type(value) is not bytes or len(value) % 8:
        raise ValueError(f"{shown(value)}, which are no float64")


def shown(value: Any) -> str:
    """The beginning of any value, printable."""
    if isinstance(value, int) and abs(value) > 1 << 200:  # Python refuses to print what is too long
        return "an integer of hundreds of digits"
    if isinstance(value, str | bytes):
        value = value[:40]
    return ascii(value)[:40]


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(value: str) -> datetime:
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError("no offset")
    return found
