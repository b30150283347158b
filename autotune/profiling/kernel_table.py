"""Lists the kernels that a problem launches with a configuration, each by what a profiler's report tells of it.

`python -m autotune.profiling.kernel_table < CALLS > KERNELS` does so in a process of its own, which imports torch and
Triton. CALLS: a JSON list of {"problem", "config", "capability", "units"} of winners; KERNELS: those of each winner and
of its problem's default, as `kernel_key.KnownKernel`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from autotune.profiling.kernel_key import KnownKernel
from kernel_templates import random_inputs, registry
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Launch

ANY_MEMORY = 80 << 30
WARP = 32  # threads


def described(
    problem: Problem, config: Config, role: str | None, launches: "Sequence[Launch]", buffers: Mapping[str, Any]
) -> list[KnownKernel]:
    """The launches of one call, in order."""
    return [
        KnownKernel(
            kernel=launch.kernel.fn.__name__,
            grid=_triple(launch.grid),
            block=(launch.warps * WARP, 1, 1),
            name=launch.name,
            problem=problem.key,
            config=dict(config),
            role=role,
            bytes_needed=bytes_needed(problem, launch, buffers),
        )
        for launch in launches
    ]


def without_a_gpu(problem: Problem, config: Config, role: str | None) -> list[KnownKernel]:
    """The launches of one call from shapes alone: nothing is allocated or compiled. Imports Triton."""
    template = registry.cuda(problem.op)
    with random_inputs.shapes_only():
        inputs = registry.get(problem.op).inputs(problem, 0)
    packed = template.pack(problem, config, inputs.weights, "meta")
    buffers = template.prepare(problem, inputs, "meta")
    return described(problem, config, role, template.launches(problem, config, packed, buffers), buffers)


def _triple(grid: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


def bytes_needed(problem: Problem, launch: "Launch", buffers: Mapping[str, Any]) -> int:
    """Every tensor that the launch is given, once; of the KV cache only the positions that count at the typical one, or
    for any row of several, of the RoPE table only one row."""
    import torch

    from kernel_templates.cuda.pages import PagedCache

    partly = {}
    for name in buffers.keys() & set(registry.get(problem.op).layer_buffers):
        cached = buffers[name]
        if isinstance(cached, PagedCache):
            rows = sum(buffers[name].numel() * buffers[name].element_size() for name in ("q", "out"))
            partly[id(cached.cache)] = registry.get(problem.op).work(problem).bytes - rows
        else:  # [kv_heads, positions, head_dim], or scales without elements
            partly[id(cached)] = problem.typical_reach * cached[:, 0].numel() * cached.element_size()
    rope = buffers.get("rope")
    if isinstance(rope, torch.Tensor):
        partly[id(rope)] = prod(rope.shape[1:]) * rope.element_size()
    given = {id(a): a for a in launch.arguments if isinstance(a, torch.Tensor)}
    return sum(partly.get(key, tensor.numel() * tensor.element_size()) for key, tensor in given.items())


def main() -> None:
    found: list[KnownKernel] = []
    for call in json.load(sys.stdin):
        try:
            problem = registry.parse_problem(call["problem"])
            device = Device("cuda", "", call["capability"], call["units"], ANY_MEMORY)
            default = registry.cuda_space(problem, device).default
            found += without_a_gpu(problem, Config(call["config"]), "winner")
            found += without_a_gpu(problem, default, "default")
        except (ValueError, KeyError):
            continue  # a winner of an older template, which this one has no launches for
    json.dump([asdict(kernel) for kernel in found], sys.stdout)


if __name__ == "__main__":
    main()
