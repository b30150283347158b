"""Decides where a model's experts lie: on the GPU if all fit, else by what one layer of each kind costs there and with
the host."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kernel_templates import memory
from kernel_templates.layer.space import part
from kernel_templates.moe import cuda as moe
from kernel_templates.moe.problem import Moe
from kernel_templates.space import Config
from model import layer_plan, mixtures, weights
from model.config import ModelConfig
from model.cuda import device_memory
from model.cuda.execution import Executor
from model.cuda.expert_times import ExpertTimer
from model.cuda.host_experts import MOST, NEVER, HostExperts, pinned
from model.cuda.load import Keep, Loaded, cache_bytes, vector
from model.cuda.out_of_memory import FOR_WEIGHTS, explain_out_of_memory
from model.errors import ModelError
from model.expert_placement import ExpertCost, ExpertPlacement, layers_on_host
from model.gguf_file import GGUFFile
from model.runner import Settings

ROOMY = 1.5
"""Times a file's bytes, besides the KV cache: a model that small against the free memory fits, whatever its layout."""


@dataclass(frozen=True)
class Placed:
    """host: has the experts of the layers in placement.on_host, once each was given to its `keep`."""

    placement: ExpertPlacement
    host: HostExperts

    @property
    def keep(self) -> dict[int, Keep]:
        """As `load` takes it."""
        return {layer: functools.partial(self.host.keep, layer) for layer in self.placement.on_host}


def place(
    file: GGUFFile, config: ModelConfig, settings: Settings, configs: Callable[[int], Config],
    shapes: Callable[[], Loaded], executor: Executor,
) -> Placed | None:  # fmt: skip
    """None where everything fits. configs(layer): how a layer is packed; shapes: the model on torch's "meta" device.
    Raises ModelError when what is not an expert's does not fit."""
    limit, device = settings.gpu_memory, executor.device
    if limit is None:
        size = ROOMY * sum(tensor.bytes for tensor in file.tensors.values()) + cache_bytes(
            config, settings.context, settings.cache
        )
        if not config.most_experts_used or size < device_memory.room(device, None):
            return None
    model = shapes()
    beside, sizes, most = (
        device_memory.beside_experts(model),
        device_memory.of_experts(model),
        device_memory.room(device, limit),
    )
    if beside + sum(sizes.values()) <= most:
        return None
    if not sizes or beside > most:
        what = "beside its experts" if sizes else "and has no experts that could stay in host memory"
        raise ModelError(
            f"the model needs {beside / 1e9:.2f} GB of the GPU's memory {what}, and may take {most / 1e9:.2f}; give it "
            "more memory or a smaller --context, or use --device cpu"
        )
    with explain_out_of_memory("the experts of one layer, to time them", FOR_WEIGHTS):
        return _measured(file, config, settings, configs, sizes, most - beside, executor)


def _measured(
    file: GGUFFile, config: ModelConfig, settings: Settings, configs: Callable[[int], Config], sizes: dict[int, int],
    room: int, executor: Executor,
) -> Placed:  # fmt: skip
    """sizes: bytes by layer; room: bytes for experts, and for the buffers through which others come."""
    from model.cpu import weight_cache  # with Numba, which no other GPU's engine needs
    from model.cpu.experts import Experts

    total, device = sum(sizes.values()), executor.device
    x = pinned(4 * MOST * config.hidden, device).view(torch.float32).view(MOST, config.hidden)
    experts = Experts(file, config, settings.db, settings.threads, total <= weight_cache.limit(), x.numpy())
    host, timer = HostExperts(experts, x, device), ExpertTimer(executor, config.hidden)
    largest = max(sizes.values())
    if 2 * largest <= room and memory.available() > 2 * (total - room):  # the host has them twice then
        room -= 2 * largest
        host.stage(largest)
    kinds: dict[Moe, list[int]] = {}
    for layer, problem in experts.problems.items():
        kinds.setdefault(problem, []).append(layer)
    costs: dict[int, ExpertCost] = {}
    copy_s: dict[Moe, float] = {}
    for problem, layers in kinds.items():
        layer = layers[0]
        step = mixtures.step(layer_plan.layer(config, layer))
        packing = part(configs(layer), step.name)
        packed = moe.pack(problem, packing, weights.matrices(file, step.weights), str(device))
        own = {name: vector(file, tensor, device) for name, tensor in step.vectors.items()}
        bound: dict[str, Any] = {**step.link.bound(own), "eps": config.norm_eps}
        gpu_s = timer.on_gpu(problem, packing, packed, bound)
        mixture = host.keep(layer, packed)
        del packed
        host_s = timer.on_host(mixture, bound["norm"])
        costs |= {i: ExpertCost(sizes[i], gpu_s, host_s) for i in layers}
        experts.together_from[problem] = timer.together_from(host, layer)
        if host.streams:
            copy_s[problem] = timer.copy(host, layer)
            host.stream_from[problem] = timer.stream_from(host, layer, copy_s[problem])
        host.drop(layer)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    on_host = layers_on_host(dict(sorted(costs.items())), room)
    slowest = max(copy_s, key=lambda problem: copy_s[problem], default=None)
    copied = (copy_s[slowest], host.stream_from[slowest]) if slowest is not None else (None, NEVER)
    return Placed(ExpertPlacement(costs, on_host, *copied), host)
