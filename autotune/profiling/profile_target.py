"""The process that the profiler watches: `python -m autotune.profiling.profile_target REQUEST.json`.

It launches the calls of a request and writes down their kernels.

REQUEST: {"device": "cuda:0", "calls": [{"problem", "config", "role"}], "manifest": FILE, "timed": samples}. Only the
launches between the profiler's start and stop are for the profiler; each is marked with an NVTX range, a call's around
those of its kernels. With "timed" above 0, the calls are timed as a search would instead.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autotune.profiling import kernel_table
from autotune.runner import timing
from autotune.runner.cuda_candidate import OpenProblem
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.space import Config

SEED = 0


def main(request: Path) -> None:
    asked = json.loads(request.read_text())
    index = machine.index_of(asked["device"])
    torch.cuda.set_device(index)
    run = _timed if asked["timed"] else _profiled
    rows = [row for call in asked["calls"] for row in run(call, index, asked["timed"])]
    Path(asked["manifest"]).write_text(json.dumps(rows))


def _profiled(call: Mapping[str, Any], index: int, _: int) -> list[dict[str, Any]]:
    """Launch a call once for the profiler; its kernels as rows."""
    problem, config = registry.parse_problem(call["problem"]), Config(call["config"])
    template, target = registry.cuda(problem.op), machine.target(machine.detect(index))
    inputs, device = registry.get(problem.op).inputs(problem, SEED), f"cuda:{index}"
    buffers = template.prepare(problem, inputs, device)
    if problem.typical_position is not None:
        buffers["position"].fill_(problem.typical_position)
    packed = template.pack(problem, config, inputs.weights, device)
    launches = template.launches(problem, config, packed, buffers)
    for launch in launches:  # compiles
        launch.run(target)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    torch.cuda.nvtx.range_push(f"{call['role']} {problem.key}")
    for launch in launches:
        torch.cuda.nvtx.range_push(launch.name)
        launch.run(target)
        torch.cuda.nvtx.range_pop()
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_pop()
    torch.cuda.profiler.stop()
    return [asdict(kernel) for kernel in kernel_table.described(problem, config, call["role"], launches, buffers)]


def _timed(call: Mapping[str, Any], index: int, samples: int) -> list[dict[str, Any]]:
    """A call's time over fresh memory, and what it has to read and write."""
    problem = registry.parse_problem(call["problem"])
    device = machine.detect(index)
    opened = OpenProblem(problem, f"cuda:{index}", machine.target(device), machine.l2_bytes(index), SEED)
    timed = timing.measure(opened.prepare(Config(call["config"])), samples)
    work = registry.get(problem.op).work(problem.typical)
    return [{**call, **asdict(timed), "bytes_needed": work.bytes}]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
