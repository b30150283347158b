"""The parts of measuring on a GPU that need none: copies, comparisons, poison, meta problems, interpreted kernels."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from autotune.runner import tensors, timing
from autotune.runner.protocol import Failed, FailedToCompile, Poisoned
from autotune.runner.worker import failure
from kernel_templates import registry, verify
from kernel_templates.device import Device
from kernel_templates.ffn.problem import Ffn
from kernel_templates.layer.problem import Layer

pytest.importorskip("triton")
H100 = Device("cuda", "x", "9.0", 132, 80 << 30)
LAYER = Layer(64, 2, 1, 32, 32, 1, 96, *["Q4_0"] * 7, "int16", 32)


@dataclass(frozen=True)
class Pair:
    name: str
    first: torch.Tensor
    second: torch.Tensor


def test_copies_have_their_own_memory_and_keep_what_is_shared() -> None:
    one = torch.arange(4)
    value = {"pair": Pair("p", one, one), "list": [one, (torch.zeros(2), 3)]}
    copy = tensors.clone(value)
    assert copy["pair"].first is copy["pair"].second is copy["list"][0] and copy["pair"].name == "p"
    assert copy["pair"].first is not one and torch.equal(copy["pair"].first, one) and copy["list"][1][1] == 3
    assert tensors.nbytes(value) == 4 * 8 + 2 * 4


def test_how_many_copies() -> None:
    from autotune.runner.cuda_candidate import copies

    l2, free = 100 << 20, 80 << 30
    assert copies(1 << 30, 1 << 30, l2, free) == 4  # a neighbour on each side, whatever the size
    assert copies(10 << 20, 10 << 20, l2, free) == 10 and copies(1000, 1000, l2, free) == 64
    assert copies(1 << 30, 10 << 20, l2, free) == 10  # a mixture, of which a call reads little
    assert copies(1 << 30, 1 << 30, l2, 8 << 30) == 2 and copies(8 << 30, 1 << 20, l2, 10 << 30) == 1  # memory is short


def test_relative_error() -> None:
    truth = {"a": np.ones(4), "b": np.full(2, 2.0)}
    assert verify.relative_error({"a": np.ones(6), "b": np.full(2, 2.2)}, truth) == pytest.approx(0.1)
    assert verify.relative_error({"a": np.array([1, 1, 1, np.nan]), "b": truth["b"]}, truth) == math.inf
    assert verify.relative_error({"a": np.ones(3)}, truth) == math.inf
    with pytest.raises(ValueError, match="nothing to compare"):
        verify.relative_error({"c": np.ones(3)}, truth)


def test_gpu_time_is_what_lies_between_two_events(monkeypatch) -> None:
    from autotune.runner import gpu_timer

    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("synchronize")

        def elapsed_time(self, end: "Event") -> float:
            return 6.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert gpu_timer.mean_ns(lambda: done.append("work"), 3, lambda: done.append("prepare")) == 2e6
    # The first one keeps the GPU busy until the others are queued.
    assert done == ["work", "prepare", "record", "work", "work", "work", "record", "synchronize"]


def test_a_hopeless_challenger_is_soon_given_up() -> None:
    mine, theirs = timing.compare_pair(lambda: 2.0, lambda: 1.0, 15)
    assert len(mine) == len(theirs) == 3
    mine, theirs = timing.compare_pair(lambda: 1.01, lambda: 1.0, 15)
    assert len(mine) == len(theirs) == 15


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nhint"), Poisoned),
        (RuntimeError("Triton Error [CUDA]: misaligned address"), Poisoned),
        (RuntimeError("CUDA error: device-side assert triggered"), Poisoned),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), Failed),
        (RuntimeError("Triton Error [CUDA]: out of memory"), Failed),
        (ValueError("an illegal memory access is only talked of"), Failed),
        (type("OutOfResources", (Exception,), {})("shared memory, Required: 9"), FailedToCompile),
    ],
)
def test_what_a_worker_says_of_an_error(error, reply) -> None:
    assert type(failure(error)) is reply and "\n" not in failure(error).message


@pytest.mark.parametrize("problem", [*LAYER.parts().values(), LAYER], ids=lambda p: p.op)
def test_meta_problems_need_no_memory(problem) -> None:
    from autotune.runner.meta_problem import MetaProblem

    launches = MetaProblem(problem).launches(registry.cuda_space(problem, H100).default)
    given = [a for launch in launches for a in launch.arguments if isinstance(a, torch.Tensor)]
    assert given and {t.device.type for t in given} == {"meta"}


SHAPES_ASKED = """
from kernel_templates.cuda import lean_torch
lean_torch.begin()
import torch
from autotune.runner.meta_problem import MetaProblem
from kernel_templates import registry
from kernel_templates.device import Device
problem = registry.parse_problem("matvec:rows=64,cols=64,format=Q8_0,activation=int16")
default = registry.cuda_space(problem, Device("cuda", "x", "9.0", 132, 80 << 30)).default
template, asked = registry.cuda("matvec"), []
launches = template.launches

def asks_for_a_shape(problem, config, packed, buffers):
    device = next(tensor.device for tensor in buffers.values() if isinstance(tensor, torch.Tensor))
    asked.append(torch.linalg.cholesky(torch.empty((3, 3), device=device)).device.type)
    return launches(problem, config, packed, buffers)

template.launches = asks_for_a_shape
found = MetaProblem(problem).launches(default)
print(asked, {a.device.type for launch in found for a in launch.arguments if isinstance(a, torch.Tensor)})
"""


def test_shapes_that_torch_was_imported_without_are_brought() -> None:
    done = subprocess.run([sys.executable, "-c", SHAPES_ASKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['meta'] {'meta'}"


def test_spaces_are_found_without_triton() -> None:
    space = registry.cuda_space(Ffn(64, 96, "Q4_0", "Q4_0", "Q4_0"), H100)
    assert space.broken(space.default) is None
    with pytest.raises(ValueError, match="no operation"):
        registry.cuda("conv")


INTERPRETED = """
import sys, torch
from autotune.runner import cuda_candidate, cuda_bandwidth, gpu_timer
from kernel_templates.verify import WrongResult
from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED, Launch
from kernel_templates.device import Device
from kernel_templates.layer.problem import Layer
from kernel_templates.matvec.problem import Matvec
device = Device("cuda", "x", "9.0", 132, 80 << 30)

class Graph:
    def __init__(self, work):
        self.replay = work

torch.cuda.synchronize = lambda: None
torch.cuda.mem_get_info = lambda: (1 << 30, 1 << 30)
gpu_timer.capture = Graph
gpu_timer.mean_ns = lambda work, repeats: 1e6
opened = cuda_candidate.OpenProblem(Matvec(64, 64, "Q4_0"), "cpu", INTERPRETED, 1 << 14, 0)
space = registry.cuda_space(opened.problem, device)
ready = opened.prepare(space.default)
assert ready.error < opened.tolerance and ready.calls == len(ready.launches) > 4, ready
assert ready.sample() == 1e6 / ready.calls and ready.replays == 2
planes = [launch.arguments[0].data_ptr() for launch in ready.launches]
assert len(set(planes)) == ready.calls, "every copy reads weights of its own"
again = opened.prepare(space.default, verify=False)
assert again.error != again.error

collect = opened._template.collect
opened._template = type("Wrong", (), {**vars(opened._template)})
opened._template.collect = staticmethod(lambda p, b: {n: v * float("nan") for n, v in collect(p, b).items()})
try:
    opened.prepare(space.default)
    raise SystemExit("NaN was accepted")
except WrongResult as wrong:
    assert wrong.error == float("inf")

data, out = torch.arange(8 * 4096, dtype=torch.int32) % 7, torch.zeros(2, dtype=torch.int32)
Launch("read", cuda_bandwidth.read, (2,), (data, out), {"BLOCK": 4096, "STEPS": 4}).run(INTERPRETED)
assert out.tolist() == [int(half.sum()) for half in data.view(2, -1)]

layer = Layer(64, 2, 1, 32, 32, 1, 96, *["Q4_0"] * 7, "int16", 32)
opened = cuda_candidate.OpenProblem(layer, "cpu", INTERPRETED, 1 << 10, 0)
ready = opened.prepare(registry.cuda_space(layer, device).default)
assert ready.error < opened.tolerance, ready.error
calls = [launch for launch in ready.launches if launch.name == "attention"]
assert len({launch.arguments[1].data_ptr() for launch in calls}) == ready.calls >= 4, "a cache for every copy"
print("done")
"""


def test_candidates_in_the_interpreter(tmp_path) -> None:
    """All but capture and clock: packing, proving, poison, copies; and what the bandwidth kernel reads."""
    script = tmp_path / "interpreted.py"  # Triton reads the source of its kernels, not of this
    script.write_text(INTERPRETED)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "done", done.stderr[-2000:]
