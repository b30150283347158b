"""Compiling for a GPU that is not here: the keys are those of a launch there, and inputs go by file."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernel_templates import registry
from kernel_templates.matvec.problem import Matvec

pytest.importorskip("triton")

BUILD = """
import torch
from autotune.runner import compile_worker
from autotune.runner.protocol import Compile, Compiled
from kernel_templates import registry
from kernel_templates.cuda import crosscompile, kernel_cache
from kernel_templates.cuda.launch import HOPPER
from kernel_templates.device import Device
from kernel_templates.matvec.problem import Matvec

problem = Matvec(64, 64, "Q4_0")
config = registry.cuda_space(problem, Device("cuda", "x", "9.0", 132, 80 << 30)).default
made = compile_worker.CompileBackend(90)
answer = made.compile(Compile("sm90", problem.key, config))
assert isinstance(answer, Compiled) and all(answer.kernels) and not torch.cuda.is_initialized()

# Launches with tensors that have memory find what was compiled for shapes alone.
template, operation = registry.cuda(problem.op), registry.get(problem.op)
inputs = operation.inputs(problem, 0)
packed = template.pack(problem, config, inputs.weights, "cpu")
crosscompile.compile_launch = None
for launch in template.launches(problem, config, packed, template.prepare(problem, inputs, "cpu")):
    assert kernel_cache.get(launch, HOPPER, 90).cubin[:4] == b"\\x7fELF"
assert made.compile(Compile("sm90", problem.key, config)).kernels == answer.kernels
assert made.compile(Compile("sm90", problem.key, config, config)).kernels == (None,) * len(answer.kernels)
print("done")
"""


def test_what_is_compiled_ahead_is_what_a_launch_asks_for(tmp_path) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["AUTOTUNE_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "done", done.stderr[-2000:]


def test_generated_inputs_are_those_generated_on_the_spot(tmp_path) -> None:
    from autotune.runner.compile_worker import CompileBackend
    from autotune.runner.protocol import GenerateInputs, InputsGenerated

    problem, path = Matvec(64, 64, "Q4_0"), tmp_path / "inputs"
    request = GenerateInputs("sm90", problem.key, 3, str(path))
    assert isinstance(CompileBackend.generate_inputs(object.__new__(CompileBackend), request), InputsGenerated)
    found = pickle.loads(path.read_bytes())
    inputs, answers = found.inputs, found.expected
    operation = registry.get(problem.op)
    fresh = operation.inputs(problem, 3)
    assert all(np.array_equal(fresh.weights[name].raw, inputs.weights[name].raw) for name in fresh.weights)
    expected = operation.reference(problem, fresh)
    assert all(np.array_equal(answers[name], expected[name]) for name in expected)
    assert [p.name for p in Path(tmp_path).iterdir()] == ["inputs"]


LIBRARY = """
from dataclasses import dataclass

import torch
from autotune.runner import compile_worker
from autotune.runner.protocol import Compile, Compiled, Inspect
from autotune.screening.pruner import Pruner
from autotune.screening.selection import choose
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.matvec import cuda as template
from kernel_templates.matvec.problem import Matvec
from tuning_db.records import Measurement, Outcome, Trial

device = Device("cuda", "x", "9.0", 132, 80 << 30)
problem = Matvec(64, 64, "Q4_0")
space = registry.cuda_space(problem, device)
other = choose(space, 4).configs[1]


@dataclass(frozen=True)
class Product:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "product"

    def run(self, target):
        torch.mm(self.x, self.x, out=self.y)

    def load(self, target):
        pass


kernels = template.launches


def with_library(problem, config, packed, buffers):
    square = torch.empty((8, 8), device="meta")
    return [*kernels(problem, config, packed, buffers), Product(square, square)]


made = compile_worker.CompileBackend(90)
ours = made.compile(Compile("sm90", problem.key, space.default))
assert ours.kernels and all(ours.kernels), ours
template.launches = with_library
for config, base in ((space.default, None), (other, space.default), (space.default, space.default)):
    answer = made.compile(Compile("sm90", problem.key, config, base))
    assert isinstance(answer, Compiled) and answer.kernels == () and answer.seconds > 0
assert made.inspect(Inspect("sm90", problem.key, space.default)).binaries == ()

pruner = Pruner(device, 1, space.default)
trial = Trial(dict(space.default), Outcome.OK, Measurement(1.0, 1.0, 1.0, 9))
pruner.remember(space.default, (), trial)
assert pruner.prune(other, (), 0.1, 1e-9) is None, "what a library does is not known from our kernels"
print("done")
"""


def test_a_configuration_that_calls_a_library_is_compiled_and_always_measured(tmp_path) -> None:
    script = tmp_path / "library.py"
    script.write_text(LIBRARY)
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["AUTOTUNE_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "done", done.stderr[-2000:]
