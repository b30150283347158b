"""What the searches for the scales of super-blocks without a minimum (Q3_K, Q6_K) have in common.

16 sub-blocks of 16 weights are fitted one by one; the fit of the largest magnitude becomes the super-block's scale.
"""

from collections.abc import Callable

from kernel_templates.formats.codec import Fields
from kernel_templates.lazy import Tensor, torch

NEGLIGIBLE = 1e-15  # ggml stores a sub-block below this magnitude as zeros
CHUNK = 2048  # super-blocks searched at once: the search holds a dozen arrays of this size, which should stay in cache


def in_chunks(
    x: Tensor,
    fit: Callable[[Tensor], tuple[Tensor, Tensor]],
    store: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Fields:
    """float32 [..., 256] → fields.

    fit: sub-blocks float32 [16, count] → scales float32 [count], quants [16, count]; store: super-blocks float32
    [count, 16, 16], their scales [count, 16] and quants [count, 16, 16] → quants uint8 [count, 256], subscales uint8
    [count, 16], scale float16 [count].
    """
    parts = []
    for supers in x.reshape(-1, 16, 16).split(CHUNK):
        fitted, quants = fit(supers.reshape(-1, 16).T.contiguous())
        parts.append(store(supers, fitted.view(-1, 16), quants.T.reshape(-1, 16, 16)))
    quants, subscales, scale = (torch.cat(field) for field in zip(*parts, strict=True))
    return Fields(quants.view(x.shape), scale.view(x.shape[:-1]), subscales=subscales.view(*x.shape[:-1], 16))


def largest(fitted: Tensor) -> tuple[Tensor, Tensor]:
    """The fitted scale float32 [count, 16] of the largest magnitude, and that magnitude, [count, 1] each.

    A fit that overflowed to NaN never counts as the largest, as in a C comparison."""
    magnitude = fitted.abs().nan_to_num(nan=0.0, posinf=torch.inf)
    return fitted.gather(-1, magnitude.argmax(-1, keepdim=True)), magnitude.amax(-1, keepdim=True)
