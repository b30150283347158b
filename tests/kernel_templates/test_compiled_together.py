"""Kernels that several processes compiled, loaded side by side in one more.

numba numbers its symbols per process, so different code can carry one name; a loader that trusted the names once ran
the wrong kernel and crashed.
"""

import os
import subprocess
import sys

PROBLEM = "matvec:rows=96,cols=64,format=Q4_1,activation=int16"
LANES = (16, 32, 64)

COMPILE = f"""
import sys
from kernel_templates.cpu import machine
from kernel_templates import registry
from kernel_templates.registry import parse_problem
from kernel_templates.space import Config

problem = parse_problem("{PROBLEM}")
default = registry.cpu_space(problem, machine.features()).default
for lanes in sys.argv[1:]:
    registry.cpu(problem.op).compile(problem, Config({{**default, "lanes": int(lanes)}}), machine.features())
"""

RUN = COMPILE.replace(
    "for lanes in sys.argv[1:]:",
    """from autotune.runner.cpu_candidate import Bench
from kernel_templates.cpu.thread_pool import ThreadPool
bench = Bench(problem, ThreadPool(2), 0)
for lanes in sys.argv[1:]:
    ready = bench.prepare(Config({**default, "lanes": int(lanes)}), 1 << 16)
    assert ready.compile_s == 0.0, "not from the cache"
    assert ready.error < 1e-3""",
).rsplit("\n", 2)[0]


def test_kernels_of_several_processes_in_one(tmp_path) -> None:
    environment = {**os.environ, "AUTOTUNE_CACHE": str(tmp_path)}
    environment.pop("AUTOTUNE_NO_KERNEL_CACHE", None)
    compilers = [subprocess.Popen([sys.executable, "-c", COMPILE, str(lanes)], env=environment) for lanes in LANES]
    assert [process.wait(120) for process in compilers] == [0, 0, 0]
    names = [str(lanes) for lanes in LANES]
    done = subprocess.run([sys.executable, "-c", RUN, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
