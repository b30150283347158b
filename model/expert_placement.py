"""Which layers' experts lie in a GPU's memory and which stay with the host: by what was measured, within what there is
room for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExpertCost:
    """Of one layer's experts. nbytes: in the GPU's memory; gpu_s, host_s: seconds of the layer's feed-forward half for
    one token if they lie there, or if the host computes it, the way there and back included."""

    nbytes: int
    gpu_s: float
    host_s: float

    @property
    def saved_s(self) -> float:
        """What a token saves with them on the GPU."""
        return self.host_s - self.gpu_s


@dataclass(frozen=True)
class ExpertPlacement:
    """costs: by layer; on_host: layers whose experts the host keeps; copy_s: seconds in which those that take longest
    come to the GPU, None where none can; stream_from: rows from which on a pass has these copied, infinite if none
    has."""

    costs: Mapping[int, ExpertCost]
    on_host: frozenset[int]
    copy_s: float | None = None
    stream_from: float = math.inf

    def document(self) -> dict[str, Any]:
        """JSON-able. Layers are counted from 1; microseconds are of one layer and token, the mean of all layers."""
        sides = {"gpu": False, "host": True}
        return {
            **{name: self._side(host) for name, host in sides.items()},
            "copy_ms": None if self.copy_s is None else 1e3 * self.copy_s,
            "copied_from_rows": None if self.stream_from == math.inf else int(self.stream_from),
        }

    def _side(self, host: bool) -> dict[str, Any]:
        layers = [layer for layer in self.costs if (layer in self.on_host) == host]
        seconds = [cost.host_s if host else cost.gpu_s for cost in self.costs.values()]
        return {
            "layers": ranges(layers),
            "bytes": sum(self.costs[layer].nbytes for layer in layers),
            "token_us": 1e6 * sum(seconds) / len(seconds),
        }


def layers_on_host(costs: Mapping[int, ExpertCost], room: int) -> frozenset[int]:
    """The layers whose experts do not come to the GPU, which has `room` bytes for them: those that the host computes
    faster anyway, and of the others those that save least for their size; of equal ones the last."""
    left, kept = room, set()
    for layer, cost in sorted(costs.items(), key=lambda item: (-item[1].saved_s / item[1].nbytes, item[0])):
        if cost.saved_s <= 0 or cost.nbytes > left:
            kept.add(layer)
        else:
            left -= cost.nbytes
    return frozenset(kept)


def ranges(layers: Iterable[int]) -> str:
    """Layers as people count them, from 1: "1-19, 48"."""
    found: list[list[int]] = []
    for layer in sorted(layers):
        if found and layer == found[-1][1] + 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    return ", ".join(f"{a + 1}-{b + 1}" if b > a else str(a + 1) for a, b in found)


def layers_of(text: str) -> int:
    """How many layers `ranges` named."""
    ends = [part.split("-") for part in text.split(", ") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
