"""What compiling needs of a problem: shapes and types on torch's "meta" device, which has no memory."""

from typing import Any

from autotune.runner.cuda_candidate import pack_key
from kernel_templates import random_inputs, registry
from kernel_templates.cuda import lean_torch
from kernel_templates.cuda.launch import Launch
from kernel_templates.operation import CudaTemplate, Inputs
from kernel_templates.problem import Problem
from kernel_templates.space import Config


class MetaProblem:
    """A problem's launches, good for compiling only."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self._template: CudaTemplate = registry.cuda(problem.op)
        with random_inputs.shapes_only():
            self._inputs: Inputs = registry.get(problem.op).inputs(problem, 0)
        self._buffers: dict[str, Any] | None = None
        self._packed: tuple[tuple, Any] = ((None,), None)
        self._device = "meta"

    def launches(self, config: Config) -> list[Launch]:
        """The kernels of one call."""
        try:
            if self._buffers is None:
                self._buffers = self._template.prepare(self.problem, self._inputs, self._device)
            key = (self._device, *pack_key(self._template, config))
            if key != self._packed[0]:
                self._packed = ((None,), None)
                self._packed = (key, self._template.pack(self.problem, config, self._inputs.weights, self._device))
            return self._template.launches(self.problem, config, self._packed[1], self._buffers)
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            if self._device == "cpu":
                raise
            self._buffers = None
            if lean_torch.complete():  # a step of which it says by these functions what shape comes out
                return self.launches(config)
            # A step that torch cannot do without values: then with them.
            self._device = "cpu"
            self._inputs = registry.get(self.problem.op).inputs(self.problem, 0)
            return self.launches(config)
