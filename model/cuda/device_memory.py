"""How much of a GPU's memory a model may take, and what it takes beside its experts."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from model.cuda.load import Loaded
from model.cuda.pass_buffers import PassBuffers
from model.widths import MOST, bucket

MARGIN = 1 << 30
"""Bytes left free for graphs, for what passes of other sizes allocate later, and for other processes."""
LATER = 256 << 20
"""Bytes of what is allocated when it is first needed: scratch of attention and products, logits of several rows, the
library's workspace."""
OF_A_TEXT = ("keys", "values", "key_scales", "value_scales", "rope")
"""Buffers of a layer that are counted as `Loaded` has them."""


def room(device: torch.device, most: int | None) -> int:
    """Bytes that may still be allocated: of `most` in all, or if None of what is free, what PyTorch holds unused
    included, but MARGIN; elsewhere than on a GPU no limit."""
    if device.type != "cuda":
        return 1 << 62 if most is None else most
    allocated = torch.cuda.memory_allocated(device)
    if most is not None:
        return max(most - allocated, 0)
    free, _ = torch.cuda.mem_get_info(device)
    return max(free + torch.cuda.memory_reserved(device) - allocated - MARGIN, 0)


def beside_experts(model: Loaded) -> int:
    """Bytes that a model takes with all but its experts, by its shapes (torch's "meta" device)."""
    size = LATER
    for layer in model.layers:
        for name, packed in layer.packed.items():
            size += sum(planes.nbytes for planes in ((packed[0], *packed[4:]) if name == "moe" else packed))
        size += sum(t.nbytes for name, t in layer.buffers.items() if name not in OF_A_TEXT)
    ends = (model.head_packed, model.embedding, model.output_norm, model.ropes, model.cache, model.inputs)
    most = bucket(min(MOST["cuda"], model.capacity))
    return size + _distinct(ends) + _distinct(PassBuffers.allocate(model, most, 1, torch.device("meta")))


def of_experts(model: Loaded) -> dict[int, int]:
    """By layer, bytes of the experts."""
    return {i: sum(p.nbytes for p in layer.experts) for i, layer in enumerate(model.layers) if layer.mixture}


def _distinct(value: Any) -> int:
    """Bytes of the memory behind all tensors in it, each piece once."""
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in _tensors(value))}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for each in value.values() for tensor in _tensors(each))
    elif isinstance(value, list | tuple):
        yield from (tensor for each in value for tensor in _tensors(each))
    elif is_dataclass(value):
        yield from (tensor for field in fields(value) for tensor in _tensors(getattr(value, field.name)))
