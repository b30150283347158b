"""Metadata of a GGUF file by type: the one place where a value is taken for a number, a text or a flag.

A file may store anything under any key, an array where a number belongs included. What is asked for is what comes back,
or a ModelError that names the key.
"""

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.errors import ModelError, quoted


class Metadata:
    """Values of `GGUFFile.metadata`; prefix: what every key asked for begins with. A key that is not there gives the
    default."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self.prefix = values, prefix

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Raises ModelError also where the key is missing and there is no default."""
        return int(self._number(key, numbers.Integral, low, high, default))

    def real(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """As `whole`; NaN is in no range."""
        return float(self._number(key, numbers.Real, low, high, default))

    def whole_of_layers(self, key: str, layers: int, low: int, high: int, default: int | None = None) -> int:
        """As `whole`, of what a file may also give for each layer. Raises ModelError where layers differ."""
        value = self._values.get(self.prefix + key)
        if not isinstance(value, np.ndarray):
            return self.whole(key, low, high, default)
        found = self.whole_numbers(key, layers, 0, "layers").tolist()
        other = next((layer for layer in range(layers) if found[layer] != found[0]), None)
        if other is not None:
            raise ModelError(
                f"metadata key '{self.prefix}{key}' differs between layers ({found[0]} in layer 0, {found[other]} in "
                f"layer {other}), which is not supported; use another model"
            )
        return int(self._checked(key, found[0], numbers.Integral, low, high))

    def whole_each(self, key: str, layers: int, low: int, high: int, default: int | None = None) -> tuple[int, ...]:
        """As `whole`, for each layer: the file gives one number for all, or one each."""
        if not isinstance(self._values.get(self.prefix + key), np.ndarray):
            return (self.whole(key, low, high, default),) * layers
        found = self.whole_numbers(key, layers, 0, "layers").tolist()
        return tuple(int(self._checked(key, value, numbers.Integral, low, high)) for value in found)

    def flags(self, key: str, count: int, or_number: bool = False) -> tuple[bool, ...] | None:
        """One flag, or number that is 0 or not, for each of `count`; None where the file gives none, or with
        `or_number` a single value."""
        value = self._values.get(self.prefix + key)
        if value is None or (or_number and not isinstance(value, np.ndarray | list)):
            return None
        found = np.asarray(value)
        if found.shape != (count,) or found.dtype.kind not in "biu":
            raise ModelError(f"'{self.prefix}{key}' does not give one flag for each of {count} layers")
        return tuple(bool(flag) for flag in found)

    def text(self, key: str, default: str | None = None, what: str = "metadata key") -> str | None:
        value = self._values.get(self.prefix + key, default)
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{what} '{self.prefix}{key}' is {shown(value)}, not a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(self.prefix + key, default)
        if type(value) is not bool:
            raise ModelError(f"'{self.prefix}{key}' is {shown(value)}, not true or false; the file is damaged")
        return value

    def token(self, key: str, count: int) -> int | None:
        """A token's id, below `count`; None where the file names none."""
        value = self._values.get(self.prefix + key)
        if value is None or (type(value) is int and value == 0xFFFFFFFF):  # some converters write -1 for "none"
            return None
        if type(value) is not int or not 0 <= value < count:
            raise ModelError(f"'{self.prefix}{key}' is {shown(value)}, outside the vocabulary of {count} tokens")
        return value

    def texts(self, key: str) -> list[str] | None:
        """A list of strings; None where there is none, or something else."""
        value = self._values.get(self.prefix + key)
        return value if isinstance(value, list) and set(map(type, value)) <= {str} else None

    def whole_numbers(self, key: str, count: int, default: int, what: str = "tokens") -> np.ndarray:
        """int [count]."""
        return self._numbers(key, count, default, "iu", f"one whole number for each of {count} {what}")

    def real_numbers(self, key: str, count: int, default: float) -> np.ndarray:
        """float or int [count], one for each token, none of them NaN."""
        expected = f"one number for each of {count} tokens"
        found = self._numbers(key, count, default, "fiu", expected)
        if np.isnan(found).any():
            raise ModelError(f"'{self.prefix}{key}' does not give {expected}")
        return found

    def _numbers(self, key: str, count: int, default: float, kinds: str, expected: str) -> np.ndarray:
        found = np.asarray(self._values.get(self.prefix + key, np.full(count, default)))
        if found.shape != (count,) or found.dtype.kind not in kinds:
            raise ModelError(f"'{self.prefix}{key}' does not give {expected}")
        return found

    def _number(self, key: str, kind: Any, low: float, high: float, default: float | None) -> Any:
        value: Any = self._values.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"metadata key '{self.prefix}{key}' is missing; the file is incomplete, get it again")
        return self._checked(key, value, kind, low, high)

    def _checked(self, key: str, value: Any, kind: Any, low: float, high: float) -> Any:
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ModelError(f"metadata key '{self.prefix}{key}' is {shown(value)}, not a number from {low} to {high}")
        return value


def shown(value: object) -> str:
    """A value for a message; an array, which may have millions of entries, by its length."""
    if isinstance(value, list | np.ndarray):
        return f"an array of {len(value)}"
    return quoted(value)
