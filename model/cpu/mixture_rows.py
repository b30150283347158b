"""A mixture of experts over the rows of a pass on the CPU: its buffers and its steps, between the norm before it and
what is added to the residual stream.

Each expert's matrices are read once a pass, for all rows that use it; all use the shared one, if there is one.
"""

from collections.abc import Iterator

import numpy as np

from kernel_templates import formats, memory
from kernel_templates.cpu import rows
from kernel_templates.cpu.graph import Step as GraphStep
from kernel_templates.cpu.panels import step_of
from kernel_templates.cpu.tiles import Tiles
from kernel_templates.grouped_matmul import cpu as grouped_matmul
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.moe import cpu_rows
from kernel_templates.moe.problem import Moe
from model.cpu.row_operations import RowOperations
from model.layer_plan import LayerState


def products(problem: Moe, layer: LayerState, rows: int) -> Iterator[tuple[GroupedMatmul, Tiles]]:
    """Of the experts' gate, up and down over so many rows, with their matrices."""
    p = problem
    _, gate, up, down = layer.packed["moe"][:4]
    yield GroupedMatmul(p.ffn, p.hidden, p.gate_format, p.experts, p.used, rows), gate
    yield GroupedMatmul(p.ffn, p.hidden, p.up_format, p.experts, p.used, rows), up
    yield GroupedMatmul(p.hidden, p.ffn, p.down_format, p.experts, p.used, rows, x_of="pair"), down


class MixtureRows:
    """The mixtures of a model's layers, one at a time: as many rows as `operations` are for at most."""

    def __init__(self, operations: RowOperations, problems: list[Moe]) -> None:
        self._operations, most = operations, operations.most
        pairs = most * max(p.used for p in problems)
        self._logits = memory.empty((most * max(map(cpu_rows.logits_size, problems)),), np.float32)
        self._gate, self._up = (memory.empty((pairs * max(p.ffn for p in problems),), np.float32) for _ in range(2))
        self._made = memory.empty((pairs * problems[0].hidden,), np.float32)
        widest = max(p.shared_ffn for p in problems)
        self._shared_gate, self._shared_up = (memory.empty((most * widest,), np.float32) for _ in range(2))
        self._shared = memory.empty((most if widest else 0, problems[0].hidden), np.float32)
        self._choices = {
            shape: cpu_rows.Choices.allocate(p, most)
            for shape, p in {(p.experts, p.used): p for p in problems}.items()
        }  # fmt: skip

    def steps(self, problem: Moe, size: int, layer: LayerState) -> list[GraphStep]:
        """From the residual stream to the branch."""
        p, f, b = problem, self._operations, layer.buffers
        choices = self._choices[p.experts, p.used]
        width = cpu_rows.logits_size(p)
        logits = self._logits[: f.most * width].reshape(f.most, width)
        gate, up, made = (
            buffer[: f.most * p.used * cols].reshape(-1, cols)
            for buffer, cols in ((self._gate, p.ffn), (self._up, p.ffn), (self._made, p.hidden))
        )
        (of_gate, of_up, of_down), router = products(p, layer, size), layer.packed["moe"][0]
        biases = [b.get(name, 0) for name in ("router_bias", "gate_bias", "up_bias", "down_bias")]
        choose, join, combine = (
            f.kernel(compile, p)
            for compile in (cpu_rows.compile_choose, cpu_rows.compile_gate, cpu_rows.compile_combine)
        )
        return [
            f.norm(b["router_norm" if p.beside else "ffn_norm"]),
            f.product(size, router, f.normed, logits),
            cpu_rows.bind_choose(choose, logits, f.count, biases[0], b.get("expert_scale", 0), choices),
            *([f.norm(b["ffn_norm"])] if p.beside else []),
            self._product(of_gate, f.normed, gate, choices),
            self._product(of_up, f.normed, up, choices, written=of_gate[0] == of_up[0]),
            cpu_rows.bind_gate(join, gate, up, f.count, choices, (biases[1], biases[2])),
            self._product(of_down, gate, made, choices),
            *self._shared_expert(p, size, layer),
            cpu_rows.bind_combine(combine, made, f.branch, f.count, choices, biases[3], self._shared, logits),
            *self._sum_beside(p, layer),
        ]

    def _sum_beside(self, problem: Moe, layer: LayerState) -> list[GraphStep]:
        """Of experts that stand beside a network, what both give together."""
        if not problem.beside:
            return []
        f, b = self._operations, layer.buffers
        norms = b["experts_post_norm"], b["shared_post_norm"]
        kernel = f.kernel(cpu_rows.compile_beside, problem)
        return [cpu_rows.bind_beside(kernel, f.branch, self._shared, f.count, norms, f.eps)]

    def _shared_expert(self, problem: Moe, size: int, layer: LayerState) -> list[GraphStep]:
        """What the shared expert makes of the forward's normed rows, or of rows that are normed for it."""
        if not problem.shared_ffn:
            return []
        f, (gate, up, down) = self._operations, layer.packed["moe"][4:]
        gate_rows, up_rows = (
            buffer[: f.most * gate.rows].reshape(f.most, -1) for buffer in (self._shared_gate, self._shared_up)
        )
        join = f.kernel(rows.compile_gate, gate.rows, problem.gate_function)
        return [
            *([f.norm(layer.buffers["shared_norm"])] if problem.beside else []),
            f.product(size, gate, f.normed, gate_rows),
            f.product(size, up, f.normed, up_rows),
            rows.bind_gate(join, gate_rows, up_rows, f.count),
            f.product(size, down, gate_rows, self._shared),
        ]

    def _product(
        self, of: tuple[GroupedMatmul, Tiles], x: np.ndarray, y: np.ndarray, choices: cpu_rows.Choices,
        written: bool = False,
    ) -> GraphStep:  # fmt: skip
        problem, packed = of
        f, config = self._operations, self._operations.config(problem)
        key = GroupedMatmul(1, step_of(formats.get(packed.format).layout), packed.format, 1, 1, 1)
        kernel = f.kernel(grouped_matmul.compile, key, config, f.features, packed.lanes)
        buffers = {"x": x, "y": y, "scratch": f.scratch}
        return grouped_matmul.bind(problem, config, kernel, (packed,), buffers, choices.order, written)
