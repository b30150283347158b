"""Operations over the rows of a pass that any part of a model is made of: norms, products, what is added to the
residual stream. A row is one token of one text; how many there are is read when a kernel runs."""

from collections.abc import Iterable, Mapping

import numpy as np

from kernel_templates import formats, memory, registry
from kernel_templates.cpu import machine, rows
from kernel_templates.cpu.compile import Kernel
from kernel_templates.cpu.graph import Step as GraphStep
from kernel_templates.cpu.panels import step_of
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.grouped_matmul import cpu as grouped_matmul
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.matmul import cpu as matmul
from kernel_templates.matmul.problem import Matmul
from kernel_templates.problem import Problem
from kernel_templates.space import Config


class RowOperations:
    """Up to `most` rows. x, branch and normed: float32 [most, hidden], the residual stream, what is still to be added
    to it, and what a product reads of it; count: int64 [1], the rows that there are."""

    def __init__(
        self, hidden: int, norm_eps: float, most: int, configs: Mapping[Problem, Config], x: np.ndarray | None = None
    ) -> None:
        """configs: of products, where they have winners; their space's default where there is none. x: memory for it,
        if it is not to be made."""
        self.most, self._hidden, self._configs = most, hidden, configs
        self.features, self._kernels = machine.features(), dict[tuple, Kernel]()
        self.branch, self.normed = (memory.empty((most, hidden), np.float32) for _ in range(2))
        self.x = memory.empty((most, hidden), np.float32) if x is None else x
        self.count = np.zeros(1, np.int64)
        self.eps = np.array([norm_eps], np.float32)
        self.scratch = memory.empty((0,), np.uint8)

    def norm(self, weight: np.ndarray) -> GraphStep:
        """Of the residual stream, to `normed`."""
        kernel = self.kernel(rows.compile_norm, self._hidden)
        return rows.bind_norm(kernel, self.x, self.normed, self.count, weight, self.eps)

    def add(
        self, post_norm: np.ndarray | None, bias: np.ndarray | None = None, scale: np.ndarray | None = None
    ) -> GraphStep:
        given = (post_norm, bias, scale)
        kernel = self.kernel(rows.compile_add, self._hidden, *(vector is not None for vector in given))
        norm, plus, factor = (0 if vector is None else vector for vector in given)
        return rows.bind_add(kernel, self.x, self.branch, self.count, norm, self.eps, plus, factor)

    def product(self, size: int, packed: Tiles, x: np.ndarray, y: np.ndarray, first: int = 0) -> GraphStep:
        problem = Matmul(packed.rows, packed.cols, packed.format, size)
        config = self.config(problem)
        key = Matmul(1, step_of(formats.get(packed.format).layout), packed.format, 1)
        kernel = self.kernel(matmul.compile, key, config, self.features, packed.lanes)
        buffers = {"x": x, "y": y, "count": self.count, "scratch": self.scratch}
        return matmul.bind(problem, config, kernel, (packed,), buffers, first)

    def config(self, problem: Problem) -> Config:
        return self._configs.get(problem) or registry.cpu_space(problem, self.features).default

    def kernel(self, compile, *arguments) -> Kernel:
        key = (compile, *arguments)
        if key not in self._kernels:
            self._kernels[key] = compile(*arguments)
        return self._kernels[key]

    def reserve(self, threads: int, products: Iterable[tuple[Matmul | GroupedMatmul, Tiles]]) -> None:
        """Scratch memory that products of a pass need. Graphs keep what they were bound to."""
        most = 0
        for problem, lanes in {(problem, packed.lanes) for problem, packed in products}:
            template = grouped_matmul if isinstance(problem, GroupedMatmul) else matmul
            most = max(most, template.scratch_bytes(problem, self.config(problem), lanes))
        if len(self.scratch) < threads * most:
            self.scratch = memory.empty((threads * most,), np.uint8)
