"""IQ4_NL: 32 weights in 18 bytes, 4.5 bits a weight; quants are numbers of a codebook's entries.

    bytes 0-1    scale, float16
    bytes 2-17   16 bytes of 4-bit quants: byte j holds weight j in its low half and weight j + 16 in its high half

weight = scale · CODEBOOK[quant]

Quantizing is a search: 16 scales near max|weight| / 127 are tried, and the one whose entries explain the weights best
under the weight of their squares wins, with its least-squares scale.

Source of the format: `block_iq4_nl`, `kvalues_iq4nl` and `quantize_row_iq4_nl_impl` in ggml.
"""

import functools
import itertools

from kernel_templates.formats.base import Format
from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Bits, Blocks, Codes
from kernel_templates.formats.rounding import inverse_or_zero
from kernel_templates.lazy import Tensor, torch

CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
HALVES = 256
NEAREST = tuple(sum(twice >= a + b for a, b in itertools.pairwise(CODEBOOK)) for twice in range(-HALVES, HALVES))
"""The number of the closest entry, the upper of two, by twice a value rounded down: entries are integers."""
NEGLIGIBLE = 1e-15  # ggml stores a block below this magnitude as zeros
TRIES = 7  # on either side


@functools.cache
def tables(device: str) -> tuple[Tensor, Tensor]:
    """uint8, float32 [2 HALVES]: numbers and values of the closest entries."""
    numbers = torch.tensor(NEAREST, device=device)
    return numbers.to(torch.uint8), torch.tensor(CODEBOOK, dtype=torch.float32, device=device)[numbers]


def nearest_entry(x: Tensor, table: Tensor) -> Tensor:
    """float32 → what `table` has for the entry closest to x; for NaN, the last, as ggml's search ends there."""
    doubled = (x + x).nan_to_num_(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).floor_()
    return table.take(doubled.clamp_(-HALVES, HALVES - 1).long().add_(HALVES))


def nearest_number(x: Tensor) -> Tensor:
    """float32 → uint8: the number of the entry closest to x."""
    return nearest_entry(x, tables(str(x.device))[0])


def fit(x: Tensor) -> Tensor:
    """Blocks float32 [32, count] → least-squares scale float32 [count].

    All sums run in float32 over the 32 elements in order: which candidate wins can depend on the last bit.
    """
    peak = x.gather(0, x.abs().argmax(0, keepdim=True))[0]
    weight, values = x * x, tables(str(x.device))[1]
    # A tensor over a tensor: torch takes a number over a tensor for a product with the reciprocal.
    inverses = [(peak / -CODEBOOK[0]).reciprocal()]
    inverses += [torch.tensor(float(CODEBOOK[0] + step)) / peak for step in range(-TRIES, TRIES + 1)]
    scale = best = torch.zeros_like(peak)
    for tried, inverse in enumerate(inverses):
        sum_xq, sum_qq = torch.zeros_like(peak), torch.zeros_like(peak)
        entries = nearest_entry(inverse * x, values)
        for x_i, weight_i, entry in zip(x, weight, entries, strict=True):
            product = weight_i * entry
            sum_xq += product * x_i
            sum_qq += product * entry
        if not tried:
            scale = torch.where(sum_qq > 0, sum_xq / sum_qq, 0.0)
            best = scale * sum_xq
        else:
            better = (sum_qq > 0) & (sum_xq * sum_xq > best * sum_qq)
            scale = torch.where(better, sum_xq / sum_qq, scale)
            best = torch.where(better, scale * sum_xq, best)
    return torch.where(peak.abs() < NEGLIGIBLE, 0.0, scale)


def quantize(x: Tensor, layout: Blocks) -> Fields:
    """float32 [..., 32] → fields, without an importance matrix."""
    scale = fit(x.reshape(-1, 32).T.contiguous()).view(x.shape[:-1])
    return Fields(nearest_number(x * inverse_or_zero(scale)[..., None]), scale)


FORMAT = Format(
    name="IQ4_NL",
    ggml_type=20,
    layout=Blocks(size=32, scale=0, quants=Codes(Bits(at=2, width=4, run=16), codebook=CODEBOOK)),
    quantizer=quantize,
)
