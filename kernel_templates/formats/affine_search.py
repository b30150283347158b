"""How ggml quantizes groups that have a scale and a minimum of their own: Q2_K, Q4_K and Q5_K.

For each group, step sizes around the plain one are tried; for the quants that each gives, scale and minimum follow by
weighted least squares, and the fit with the least error wins. Scales and minimums then become integers under the
super-block's largest, and the quants are rounded again against the scales as stored.

Source: `make_qkx2_quants` and `quantize_row_q4_K_ref` in ggml.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kernel_templates.formats.codec import Fields
from kernel_templates.formats.layout import Blocks
from kernel_templates.formats.rounding import nearest_int
from kernel_templates.lazy import Tensor, torch

CHUNK = 2048  # super-blocks searched at once: the search holds a dozen arrays of this size, which should stay in cache


@dataclass(frozen=True)
class AffineSearch:
    """What is tried: steps + 1 times, with `first` + i · 0.1 levels more than there are."""

    first: float
    steps: int
    weigh: Callable[[Tensor], Tensor]
    """float32 [elements, groups] → how much each element's error counts."""
    absolute: bool
    """Errors are summed as they are; else squared."""

    def quantize(self, x: Tensor, layout: Blocks) -> Fields:
        """float32 [..., 256] → fields, without an importance matrix."""
        parts = [self._supers(some, layout) for some in x.reshape(-1, layout.groups, layout.group).split(CHUNK)]
        quants, scale, minimum, subscales, subminimums = (torch.cat(field) for field in zip(*parts, strict=True))
        shape = x.shape[:-1]
        subscales, subminimums = (codes.view(*shape, layout.groups) for codes in (subscales, subminimums))
        return Fields(quants.view(x.shape), scale.view(shape), minimum.view(shape), subscales, subminimums)

    def _supers(self, supers: Tensor, layout: Blocks) -> tuple[Tensor, ...]:
        """float32 [count, groups, elements] → quants, scale, minimum, subscales, subminimums."""
        groups, elements = supers.shape[1:]
        assert layout.subscales is not None and layout.subminimums is not None
        most = (1 << layout.quants.bits) - 1
        scales, minimums, quants = self._fit(supers.reshape(-1, elements).T.contiguous(), most)
        scale, subscales = _codes(scales.view(-1, groups), layout.subscales.bits)
        minimum, subminimums = _codes(minimums.view(-1, groups), layout.subminimums.bits)
        if layout.subscales.bits == 4:  # both share a byte, into which ggml writes the two without a mask
            byte = (subscales & 255) | (subminimums << 4)
            subscales, subminimums = byte & 15, byte >> 4 & 15
        else:
            subscales, subminimums = ((codes & 255).clamp_max(63) for codes in (subscales, subminimums))
        step, lowest = (half.float() * codes for half, codes in ((scale, subscales), (minimum, subminimums)))
        refined = nearest_int((supers + lowest[..., None]) / step[..., None]).clamp(0, most)
        quants = torch.where(step[..., None] == 0, quants.T.reshape(supers.shape), refined).to(torch.uint8)
        codes = (codes.to(torch.uint8) for codes in (subscales, subminimums))
        return quants.flatten(-2), scale.squeeze(-1), minimum.squeeze(-1), *codes

    def _fit(self, x: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Groups float32 [elements, count] → scale and minimum (of which weights lie above -minimum) float32 [count],
        quants int32 [elements, count].

        All sums run in float32 over the elements in order: which candidate wins can depend on the last bit.
        """
        weights = self.weigh(x)
        weighted = weights * x
        sum_w, sum_x = _sum(weights), _sum(weighted)
        low, high = x.amin(0).clamp_max(0), x.amax(0)
        flat = low == high
        step = torch.tensor(float(most)) / (high - low)  # torch takes a number over a tensor for a product
        scale = step.reciprocal()
        quants = nearest_int(step * (x - low)).clamp_(0, most)
        best = self._error(x, weights, quants, scale, low)
        for i in range(self.steps + 1):
            levels = torch.tensor(self.first) + torch.tensor(0.1) * i + most
            candidate = nearest_int(levels / (high - low) * (x - low)).clamp_(0, most)
            sum_l, sum_ll, sum_xl = (torch.zeros_like(sum_w) for _ in range(3))
            for x_i, weight_i, level in zip(x, weights, candidate.float(), strict=True):
                product = weight_i * level
                sum_l += product
                sum_ll += product * level
                sum_xl += product * x_i
            determinant = sum_w * sum_ll - sum_l * sum_l
            fitted = (sum_w * sum_xl - sum_x * sum_l) / determinant
            lowest = (sum_ll * sum_x - sum_l * sum_xl) / determinant
            fitted = torch.where(lowest > 0, sum_xl / sum_ll, fitted)
            lowest = torch.where(lowest > 0, 0.0, lowest)
            error = self._error(x, weights, candidate, fitted, lowest)
            better = (determinant > 0) & (error < best)
            best, scale, low = (
                torch.where(better, new, old) for new, old in ((error, best), (fitted, scale), (lowest, low))
            )
            quants = torch.where(better, candidate, quants)
        low = torch.where(flat, x.amin(0).clamp_max(0), low)
        return torch.where(flat, 0.0, scale), -low, torch.where(flat, 0, quants)

    def _error(self, x: Tensor, weights: Tensor, quants: Tensor, scale: Tensor, low: Tensor) -> Tensor:
        difference = scale * quants + low - x
        return _sum(weights * (difference.abs_() if self.absolute else difference * difference))


def _sum(x: Tensor) -> Tensor:
    """float32 [elements, count] → [count], one element after the other."""
    out = torch.zeros_like(x[0])
    for row in x:
        out += row
    return out


def _codes(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """float32 [count, groups] → the step as float16 [count, 1], and how many of them each is, int32."""
    most = (1 << bits) - 1
    # A fit that overflowed to NaN never counts as the largest, as in a C comparison.
    largest = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=0.0).amax(-1, keepdim=True).clamp_min(0) + 0.0
    inverse = torch.where(largest > 0, torch.tensor(float(most)) / largest, 0.0)
    codes = torch.where(largest > 0, nearest_int(inverse * values), 0)
    return (largest / most).to(torch.float16), codes


def magnitude(x: Tensor) -> Tensor:
    """How much errors count in Q2_K."""
    return x.abs()


def root_mean_square_and_magnitude(x: Tensor) -> Tensor:
    """How much errors count in Q4_K and Q5_K: float32 [elements, groups] → √(mean x²) + |x|."""
    # Through float64, because torch's float32 root is not the closest number: it differs in a sixth of all cases.
    return (_sum(x * x) / len(x)).double().sqrt().float() + x.abs()
