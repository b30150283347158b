"""What passes over many tokens keep on the device between their kernels: one set for all, since one runs at a time.

A row takes 4 hidden (x) + 2 hidden (normed) + 4 heads head_dim (q, attended) + 2 ffn (gated) + 4 max(what the mixer
projects to, 2 ffn, hidden) (wide) bytes, each of the layer that is largest in it: 2048 rows 91 MB for
Qwen3-0.6B, 336 MB for Qwen3-8B. With a mixture of experts ffn is that of all experts that a row uses, and wide holds
`used` + 1 times hidden, once more with a shared expert: 2048 rows 235 MB for Qwen3-30B-A3B. Beside them stands the
matrix that is expanded at the time, 2 bytes a weight of the largest product: 13 MB, 201 MB and 21 MB, twice that where
the next one is expanded meanwhile.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernel_templates.cuda import fragments, norm_between
from kernel_templates.matmul.cuda import COUNTERS
from kernel_templates.matmul.space import THIN_TOKENS
from kernel_templates.moe import rows as moe_rows
from model.cuda.load import Loaded
from model.cuda.out_of_memory import FOR_CONTEXT, explain_out_of_memory
from model.layer_plan import buffer_sizes
from model.layer_sizes import LayerSizes

InOrders = Mapping[tuple[int, int], Tensor]
"""By columns and their order."""


@dataclass(frozen=True)
class PassBuffers:
    """x float32 [most, hidden]: the residual stream. q float16, and wide float32, what a product gives until the next
    one: flat, cut to a pass's rows. normed, attended and gated, float16 too, by their columns and the order that a
    product reads those in: the same memory, but where an order leaves places empty, which nothing else may fill.
    inputs: float32 [most, layers * layer_input], what each layer gets of a row. squares float32 and norm_scales float32
    [2, THIN_TOKENS]: of norms without a kernel, as of `norm_between`; of one and of the next. expanded: float16, one
    matrix or two;
    counters: int32 zeros, for programs that share columns of a product or positions of attention; routing: what a
    mixture's router leaves, as of `moe.rows`."""

    x: Tensor
    normed: InOrders
    q: Tensor
    attended: InOrders
    gated: InOrders
    wide: Tensor
    inputs: Tensor
    squares: Tensor
    norm_scales: Tensor
    expanded: tuple[Tensor, ...]
    counters: Tensor
    routing: Mapping[str, Tensor]

    @classmethod
    def allocate(cls, model: Loaded, most: int, matrices: int, device: torch.device) -> "PassBuffers":
        """most: rows of a pass; matrices: expanded at once. Raises ModelError when memory does not suffice."""
        c, largest_of = model.config, buffer_sizes(model.config)
        attended, ffn = largest_of["attended"], largest_of["gated"]
        halves = (c.hidden, attended, attended, ffn)
        used, inputs = max((mixture.used for mixture in model.mixtures), default=0), largest_of.get("layer_inputs", 0)
        widest = max(largest_of["qkv"], largest_of["projected"], 2 * ffn, (used + 1) * c.hidden, inputs)
        widest += c.hidden * any(mixture.shared_ffn for mixture in model.mixtures)
        largest = largest_product(model)
        size = most * (4 * c.hidden + 2 * sum(halves) + 4 * (widest + inputs)) + 2 * largest * matrices
        with explain_out_of_memory(f"the {size / 1e9:.1f} GB that prompts need", FOR_CONTEXT):
            # Zeros, because rows that no token has are computed with too.
            return cls(
                torch.zeros((most, c.hidden), device=device),
                _in_orders({c.hidden: most}, device),
                torch.zeros(most * attended, dtype=torch.float16, device=device),
                _in_orders({sizes.attended: most for sizes in c.sizes}, device),
                _in_orders(_gated(c.sizes, most), device),
                torch.zeros(most * widest, device=device),
                torch.zeros((most, inputs), device=device),
                torch.zeros(norm_between.square_count(c.hidden, THIN_TOKENS), device=device),
                torch.zeros((2, THIN_TOKENS), device=device),
                tuple(torch.empty(largest, dtype=torch.float16, device=device) for _ in range(matrices)),
                torch.zeros(COUNTERS, dtype=torch.int32, device=device),
                moe_rows.allocate(model.mixtures, most, device),
            )


def _gated(layers: Iterable[LayerSizes], most: int) -> dict[int, int]:
    """Columns of gated activations -> rows of them, one for each expert that a row of a pass uses."""
    rows: dict[int, int] = {}
    for s in layers:
        each = most if s.mixture is None else most * s.mixture.used
        rows[s.ffn] = max(each, rows.get(s.ffn, 0))
        for others in (s.layer_input, 0 if s.mixture is None else s.mixture.shared_ffn):
            if others:
                rows[others] = max(most, rows.get(others, 0))
    return rows


def _in_orders(rows: Mapping[int, int], device: torch.device) -> dict[tuple[int, int], Tensor]:
    """float16 zeros for as many rows of each number of columns, in every order of them."""
    whole = torch.zeros(max(cols * most for cols, most in rows.items()), dtype=torch.float16, device=device)
    made = {}
    for (cols, most), order in itertools.product(rows.items(), fragments.ORDERS):
        width = fragments.width(cols, order)
        own = width != cols  # it has places that stay empty
        made[cols, order] = torch.zeros(most * width, dtype=torch.float16, device=device) if own else whole
    return made


def largest_product(model: Loaded) -> int:
    """Weights of the largest product of a layer that may be expanded: what a mixer projects to is one, and so are gate
    and up. Experts are not expanded, but for the shared one."""
    products = (
        group
        for layer in model.layers
        for dense in [layer.packed["ffn"] if "ffn" in layer.packed else layer.packed["moe"][4:]]
        for group in (layer.packed[layer.plan.steps[0].name], layer.packed["out"], dense[:2], dense[2:])
    )
    of_inputs = [] if model.inputs is None else [model.inputs.packed]
    return max(sum(planes.rows * planes.cols for planes in group) for group in itertools.chain(products, of_inputs))
