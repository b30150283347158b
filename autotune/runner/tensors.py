"""Tensors inside dataclasses, tuples and dictionaries: copied and counted, whatever holds them."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch


def each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in it replaced by what `change` makes of it; one that occurs twice is changed once."""
    seen: dict[int, torch.Tensor] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            if id(part) not in seen:
                seen[id(part)] = change(part)
            return seen[id(part)]
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{f.name: walk(getattr(part, f.name)) for f in fields(part) if f.init})
        if isinstance(part, Mapping):
            return {name: walk(entry) for name, entry in part.items()}
        if isinstance(part, tuple | list):
            return type(part)(walk(entry) for entry in part)
        return part

    return walk(value)


def clone(value: Any) -> Any:
    """A copy with memory of its own."""
    return each(value, lambda tensor: tensor.clone())


def of(value: Any) -> list[torch.Tensor]:
    """The tensors in `value`, each once, in an order that only its structure decides."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    each(value, keep)
    return found


def copy(source: Any, target: Any) -> None:
    """Write the contents of the tensors in `source` to those of `target`, which was made of it by `each`."""
    for mine, other in zip(of(source), of(target), strict=True):
        other.copy_(mine)


def nbytes(value: Any) -> int:
    """Bytes of all tensors in `value`, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in of(value))
