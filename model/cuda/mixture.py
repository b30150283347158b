"""A mixture of experts in a pass over many rows: the router, its choices sorted by expert, the products of each
expert's rows, and their weighted sum. The grids are those of any choice: nothing comes to the host."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from kernel_templates import formats
from kernel_templates.cuda import fragments
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.rows import add_norm, gate
from kernel_templates.cuda.weights import Planes, joined
from kernel_templates.ffn.problem import GATE_FUNCTIONS as FFN_GATES
from kernel_templates.grouped_matmul import cuda as grouped
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.moe import beside, choose
from kernel_templates.moe import rows as moe_rows
from kernel_templates.moe.problem import Moe
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.cuda.load import CudaLayer
from model.cuda.pass_buffers import PassBuffers
from model.errors import ModelError


class MixtureRows:
    """The launches of one layer's mixture over so many rows, but for those of the shared expert, which come before.
    configs: what problems run with."""

    def __init__(
        self, layer: CudaLayer, buffers: PassBuffers, configs: Callable[[Problem], Config], rows: int, eps: float
    ) -> None:
        self._eps = eps
        assert layer.mixture is not None
        self.problem, self._layer, self._buffers, self._rows = layer.mixture, layer, buffers, rows
        _, self._gate, self._up, self._down = layer.packed["moe"][:4]
        both = joined((self._gate, self._up))
        self._parts: tuple[Planes, ...] = (self._gate, self._up) if both is None else (both,)
        gate_up, down = _products(self.problem, rows, both is not None)
        self._gate_up = [(each, configs(each)) for each in gate_up]
        if len({grouped.order(config) for _, config in self._gate_up}) > 1:  # they read one input
            self._gate_up = [(each, self._gate_up[0][1]) for each, _ in self._gate_up]
        self._last = (down, configs(down))

    @property
    def order(self) -> int:
        """Of the columns of what the experts read, and the router."""
        return grouped.order(self._gate_up[0][1])

    @property
    def shared(self) -> Tensor | None:
        """float32 [rows, hidden], what the shared expert makes of each row times GATED_SCALE; None where there is none.
        It lies where no other product of the mixture writes."""
        p = self.problem
        return self._buffers.wide[-self._rows * p.hidden :].view(-1, p.hidden) if p.shared_ffn else None

    @property
    def branch(self) -> add_norm.Branch:
        """What is still to be added to the residual stream."""
        own = self._layer.buffers
        scale = own["out_scale"] if self.problem.out_scale else None
        return add_norm.Branch(self._wide[1], post_norm=own.get("post_ffn_norm"), out_scale=scale)

    def route(self, h: Tensor, positions: Tensor) -> Iterator[Launch]:
        """h: what the router reads, float16 [rows, width of the order]; positions: int32 [rows], -1 where a row is not
        used."""
        p, own, rows, made = self.problem, self._layer.buffers, self._rows, self._routing
        logits, ids, weights = made["router_logits"], made["expert_ids"], made["expert_weights"]
        yield moe_rows.router_launch(p, h, own["router"], own.get("router_bias"), logits, rows, self.order)
        yield choose.launch(p, logits, ids, weights, rows, positions, own.get("expert_scale"))
        yield moe_rows.group_launch(p.experts, ids, made["offsets"], made["pairs"])

    def launches(self, h: Tensor) -> Iterator[Launch]:
        """h: what experts read, float16 [rows, width of the order]."""
        p, own, rows, made = self.problem, self._layer.buffers, self._rows, self._routing
        down, config = self._last
        x_order = grouped.order(config)
        gated = self._buffers.gated[p.ffn, x_order][: rows * p.used * fragments.width(p.ffn, x_order)]
        gated = gated.view(rows * p.used, -1)
        yield from self._gated(h, gated, x_order, made)
        y, out = self._wide
        given = {"x": {x_order: gated}, "y": y, "name": "down", **made}
        yield from grouped.launches(down, config, (self._down,), given)
        ids, weights, factor = made["expert_ids"], made["expert_weights"], 1 / GATED_SCALE.value
        shared = None if p.beside else self.shared
        yield moe_rows.combine_launch(p, y, ids, weights, own.get("down_bias"), shared, out, factor)
        if p.beside:
            assert self.shared is not None
            norms = own["experts_post_norm"], own["shared_post_norm"]
            yield beside.rows_launch(out, self.shared, norms, self._eps, factor)

    def _gated(self, h: Tensor, gated: Tensor, order: int, made: Mapping[str, Tensor]) -> Iterator[Any]:
        """Gate and up, gated; of matrices in two formats one after the other, and the gate in a kernel of its own."""
        p, own = self.problem, self._layer.buffers
        given: dict[str, Any] = {"x": {self.order: h}, "name": "gate_up", **made}
        if len(self._gate_up) == 1:
            ((problem, config),) = self._gate_up
            given |= {name: own[name] for name in ("gate_bias", "up_bias") if p.bias}
            yield from grouped.launches(problem, config, self._parts, {**given, "y": gated, "y_order": order})
            return
        both = self._buffers.wide[: len(gated) * 2 * p.ffn].view(-1, 2 * p.ffn)
        for (problem, config), planes, y in zip(self._gate_up, self._parts, both.split(p.ffn, 1), strict=True):
            yield from grouped.launches(problem, config, (planes,), {**given, "y": y})
        yield gate.gate(both, gated, p.gate_function, order)

    @property
    def _routing(self) -> dict[str, Tensor]:
        """What the router and its choices leave, as of `moe.rows`."""
        sizes = moe_rows.sizes(self.problem, self._rows)
        return {name: self._buffers.routing[name][:size] for name, size in sizes.items()}

    @property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """float32: what down gives of each pair [rows * used, hidden], and behind it the sum [rows, hidden]."""
        p, pairs = self.problem, self._rows * self.problem.used
        flat = self._buffers.wide[: (pairs + self._rows) * p.hidden]
        y, out = flat.view(-1, p.hidden).split([pairs, self._rows])
        return y, out


def _products(moe: Moe, rows: int, together: bool) -> tuple[list[GroupedMatmul], GroupedMatmul]:
    """Gate and up, one where they lie together, and down; as `model.widths` names them. Raises ModelError for experts
    that no kernel multiplies so."""
    shared = (moe.experts, moe.used, rows)
    down = GroupedMatmul(moe.hidden, moe.ffn, moe.down_format, *shared, x_of="pair")
    forms = (moe.gate_format, moe.up_format)
    if together:
        both = GroupedMatmul(2 * moe.ffn, moe.hidden, forms[0], *shared, gate=moe.gate_function, bias=moe.bias)
        return [both], down
    kinds = {formats.get(form).quantized for form in forms}
    if moe.bias or moe.gate_function not in FFN_GATES or len(kinds) > 1:
        raise ModelError(
            f"experts whose gate is {forms[0]} and whose up is {forms[1]} are not multiplied on a GPU; "
            "quantize both alike"
        )
    return [GroupedMatmul(moe.ffn, moe.hidden, form, *shared) for form in forms], down
