"""Lists the kernels of problems and configurations: `python -m autotune.profiling.kernel_table < CALLS > KERNELS`.

CALLS: a JSON list of {"problem", "config", "capability", "units"} of winners; KERNELS: those of each winner and of its
problem's default, as `kernel_key.KnownKernel`. A process of its own: it imports torch and Triton.
"""

import json
import sys
from dataclasses import asdict

from autotune.profiling.calls import without_a_gpu
from autotune.profiling.kernel_key import KnownKernel
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.space import Config

ANY_MEMORY = 80 << 30


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
