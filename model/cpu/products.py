"""Products of a model's packed matrices with many tokens."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kernel_templates import memory, registry
from kernel_templates.cpu import machine
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.matmul import cpu as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.problem import Problem
from kernel_templates.space import Config

FEWEST = 2
"""Tokens of the smallest problem."""


def bucket(tokens: int) -> int:
    """The tokens of the problem that so many run as: the next power of two."""
    return max(FEWEST, 1 << (tokens - 1).bit_length())


class Products:
    """Multiplies through the kernels of the operation `matmul`, each compiled when it is first needed."""

    def __init__(self, pool: ThreadPool, configs: Mapping[Problem, Config]):
        """configs: of the problems that have a winner; the others have their space's default."""
        self._pool, self._configs = pool, configs
        self._kernels: dict[tuple, Kernel] = {}
        self._scratch = memory.empty((0,), np.uint8)

    def multiply(self, x: Tensor, packed: Tiles, threads: int) -> Tensor:
        """x float32 [tokens, cols] times the matrix: float32 [tokens, rows]."""
        count = len(x)
        problem = Matmul(packed.rows, packed.cols, packed.format, bucket(count))
        config = self._config(problem)
        y = torch.empty(count, packed.rows)
        buffers = {
            "x": x.contiguous().numpy(), "y": y.numpy(), "count": np.array([count], np.int64),
            "scratch": self._memory(matmul.scratch_bytes(problem, config, packed.lanes)),
        }  # fmt: skip
        bound = matmul.bind(problem, config, self._kernel(problem, config, packed.lanes), (packed,), buffers)
        Graph(self._pool, [bound]).replay(threads)
        return y

    def _config(self, problem: Matmul) -> Config:
        return self._configs.get(problem) or registry.cpu_space(problem, machine.features()).default

    def _kernel(self, problem: Matmul, config: Config, lanes: int) -> Kernel:
        key = (problem.format, problem.cols, config, lanes)
        if key not in self._kernels:
            self._kernels[key] = matmul.compile(problem, config, machine.features(), lanes)
        return self._kernels[key]

    def _memory(self, per_thread: int) -> np.ndarray:
        size = per_thread * self._pool.threads
        if len(self._scratch) < size:
            self._scratch = memory.empty((size,), np.uint8)
        return self._scratch
