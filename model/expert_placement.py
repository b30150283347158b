"""Which layers' experts lie in a GPU's memory and which stay with the host: by what was measured, within what there is
room for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


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
    """costs: by layer; on_host: layers whose experts the host keeps; copy_s: seconds in which the largest of them come
    to the GPU, None where they cannot; stream_from: rows from which on a pass has them copied, infinite if none has."""

    costs: Mapping[int, ExpertCost]
    on_host: frozenset[int]
    copy_s: float | None = None
    stream_from: float = math.inf

    def nbytes(self, host: bool) -> int:
        """Of the experts with the host, or of those on the GPU."""
        return sum(cost.nbytes for layer, cost in self.costs.items() if (layer in self.on_host) == host)

    def mean_s(self, host: bool) -> float:
        """Seconds of a layer and token on the host, or on the GPU, over all layers."""
        return sum(cost.host_s if host else cost.gpu_s for cost in self.costs.values()) / len(self.costs)

    @property
    def token_s(self) -> float:
        """Seconds of all feed-forward halves of a token, by the single measurements."""
        return sum(cost.host_s if layer in self.on_host else cost.gpu_s for layer, cost in self.costs.items())


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
