"""Products that ask for the weights of the product behind them: memory goes on where kernels change."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from kernel_templates.cuda.launch import Launch

FIRST = 4  # of a product's arguments: the planes of its matrix; of gate and up, as many again
LINE = 128  # bytes


def weights(launch: Launch) -> list[torch.Tensor]:
    """The planes that a product reads, the largest four; nothing of other kernels."""
    c = launch.constants
    if "FETCH" not in c:
        return []
    planes = list(launch.arguments[: len(c["TRAITS"].planes)])
    for other in ("UP_TRAITS", "BELOW_TRAITS"):
        if other in c:
            planes += launch.arguments[FIRST : FIRST + len(c[other].planes)]
    return sorted(planes, key=lambda t: -t.numel() * t.element_size())[:4]


def follow(launches: Sequence[Launch], most: int, programs: int) -> list[Launch]:
    """Launches whose products ask for up to `most` bytes of the next product's weights, its first rows; of a product
    the last `programs` do."""
    made, behind = [], None
    for launch in reversed(launches):
        made.append(_asking(launch, behind, most, programs) if behind and weights(launch) else launch)
        behind = launch if weights(launch) else behind
    return made[::-1]


def _asking(launch: Launch, behind: Launch, most: int, programs: int) -> Launch:
    planes = weights(behind)
    total = sum(t.numel() * t.element_size() for t in planes)
    count = min(launch.grid[0], programs)
    part = min(1.0, most / total) / count
    shares = tuple(int(t.numel() * t.element_size() * part) // LINE * LINE for t in planes)
    pointers = (*planes, *[None] * (4 - len(planes)))
    constants = {**launch.constants, "FOLLOW": shares, "FOLLOW_FROM": launch.grid[0] - count}
    return replace(launch, arguments=(*launch.arguments[:-4], *pointers), constants=constants)
