"""Configurations as points: what a model of their times sees of them."""

from collections.abc import Sequence

import numpy as np

from kernel_templates.space import Value

WIDE = 4  # a positive parameter whose largest value is so many times its smallest is seen by its logarithm
SEVERAL = 5  # values that a parameter has before its divisibility is looked at


def encode(columns: Sequence[Sequence[Value]]) -> np.ndarray:
    """float64 [N, D], each feature between 0 and 1, from one column of N values a parameter.

    A number counts half by its size (its logarithm if it spans much) and half by its place among the values there are.
    Numbers that are not all powers of two also count by how often 2 divides them: on a GPU a block of 96 is a neighbour
    of 64 and 128 more than of 88. Words are one feature each. A parameter of one value is none.
    """
    features: list[np.ndarray] = []
    for column in columns:
        values = sorted(set(column), key=lambda value: (str(type(value)), value))
        if len(values) > 1:
            numeric = all(isinstance(value, int | float) for value in values)
            features += _numbers(column, values) if numeric else _words(column, values)
    return np.array(features).T if features else np.zeros((len(columns[0]) if columns else 0, 1))


def _numbers(column: Sequence, values: Sequence) -> list[np.ndarray]:
    rank = {value: place / (len(values) - 1) for place, value in enumerate(values)}
    size = np.array(column, np.float64)
    if values[0] > 0 and values[-1] >= WIDE * values[0]:
        size = np.log2(size)
    found = [(_scaled(size) + np.array([rank[value] for value in column])) / 2]
    whole = all(value == int(value) for value in values)
    if whole and len(values) >= SEVERAL and any(value > 0 and int(value) & (int(value) - 1) for value in values):
        twos = {value: (int(value) & -int(value)).bit_length() for value in values}
        if len(set(twos.values())) > 1:
            found.append(_scaled(np.array([twos[value] for value in column], np.float64)))
    return found


def _words(column: Sequence, values: Sequence) -> list[np.ndarray]:
    told = values[1:] if len(values) == 2 else values
    return [np.array([entry == value for entry in column], np.float64) for value in told]


def _scaled(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())
