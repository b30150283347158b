"""Runs the operations of one layer alone over many tokens of a prompt, on inputs from outside, on either backend.

Inputs and outputs are float32 [tokens, ...] by the layer's names of buffers: "x" [hidden], "qkv" (the queries, [heads,
head_dim]), "attended" [heads * head_dim]. Heads are in the kernels' order, halves turned.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from autotune.precision.kernels_alone import PARTS
from model.cpu.runner import CpuRunner
from model.runner import Runner

if TYPE_CHECKING:
    from model.cpu.prefill import CpuPrefill
    from model.cuda.forward import Forward


class PromptAlone(Protocol):
    @property
    def most(self) -> int:
        """Tokens of a chunk."""

    def run(
        self, layer: int, parts: Sequence[str], first: int, count: int, inputs: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """What the parts make of `count` tokens at positions first, first + 1, ..., and the inputs."""


def prompt_of(runner: Runner) -> PromptAlone:
    if isinstance(runner, CpuRunner):
        return CpuPrompt(runner.prefill)
    made: Any = runner
    return CudaPrompt(made.forward)


class CpuPrompt:
    """The steps of model/cpu/prefill.py."""

    def __init__(self, prefill: "CpuPrefill") -> None:
        self._prefill = prefill

    @property
    def most(self) -> int:
        return self._prefill.most

    def run(
        self, layer: int, parts: Sequence[str], first: int, count: int, inputs: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        chunks, buffers = self._prefill.chunks(first, count), dict(inputs)
        for step in self._prefill.steps[layer]:
            if step.link.prefix in parts:
                buffers |= self._prefill.run_step(step, chunks, buffers)
        return buffers


class CudaPrompt:
    """The launches of model/cuda/forward.py, one by one."""

    def __init__(self, forward: "Forward") -> None:
        self._forward = forward

    @property
    def most(self) -> int:
        return self._forward.most

    def run(
        self, layer: int, parts: Sequence[str], first: int, count: int, inputs: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        from model.widths import PassSize, bucket

        forward = self._forward
        size = PassSize(1, bucket(count), forward.bound(first + count - 1))
        rows = forward.rows(size)
        own = forward.model.layers[layer]
        passed, attended = {"x": rows.x, "qkv": rows.q(own)}, rows.attended(own)
        forward.place(size, 0, range(first, first + count), 0)
        for name, value in inputs.items():
            if name == "attended":
                attended.write(value.flatten(1).to(attended.values.device))
            else:
                passed[name][:count] = value.flatten(1).to(passed[name])
        launches = dict(zip(PARTS, rows.parts(layer).values(), strict=True))
        for part in PARTS:
            if part in parts:
                for launch in launches[part]:
                    launch.run(forward.executor.target)
        left = {name: value[:count].float().cpu() for name, value in passed.items()}
        return {**inputs, **left, "attended": attended.read(count).cpu()}
