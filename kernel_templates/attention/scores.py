"""What the GPU's attention kernels do with scores: scale them, cap them softly, weigh them against a head's sink; and
which positions have one at all."""

import triton.language as tl

from kernel_templates.cuda.instructions import soft_cap
from kernel_templates.cuda.lazy_triton import triton

LOG2E = tl.constexpr(1.4426950408889634)
# A masked score. Of a finite one the same, scaled and rounded, would be subtracted before it is rounded itself: where a
# row sees nothing of a tile yet, that leaves 10^21 and no 0.
UNSEEN = tl.constexpr(float("-inf"))
NEVER = tl.constexpr(1 << 30)  # a position beyond all


@triton.constexpr_function
def factor(scale, softcap):
    """What a query is multiplied with: what gives scores in units of log 2, unless they have to be capped first."""
    return scale if softcap else LOG2E.value * scale


@triton.constexpr_function
def inner_factor(scale, softcap):
    """What a product of query and key is multiplied with before the cap."""
    return factor(scale, softcap) if softcap else 1.0


@triton.constexpr_function
def outer_factor(scale, softcap):
    """What a masked score is multiplied with to be in units of log 2, in one instruction with the subtraction."""
    return 1.0 if softcap else factor(scale, softcap)


@triton.jit
def capped(s, SOFTCAP: tl.constexpr, ASM: tl.constexpr):
    """The scores in units of log 2, from queries times `factor` and keys."""
    if SOFTCAP > 0:
        return soft_cap(s, SOFTCAP, ASM) * LOG2E
    else:
        return s


@triton.jit
def oldest(position, WINDOW: tl.constexpr):
    """The first position in the window that ends with this one."""
    return tl.maximum(position + 1 - WINDOW, 0)


@triton.jit
def load_sinks(sinks, first_head, G: tl.constexpr, COUNT: tl.constexpr):
    """float32 [G] of COUNT heads, the last one again for what is padding.

    Of scalars: the load of a tensor would decide the layout of all that it meets."""
    made = tl.zeros([G], tl.float32)
    for i in tl.static_range(G):
        made = tl.where(tl.arange(0, G) == i, tl.load(sinks + first_head + min(i, COUNT - 1)), made)
    return made


@triton.jit
def sink_weight(sink, m):
    """The weight of a sink among those of scores in units of log 2 that are relative to `m`."""
    return tl.exp2(sink * LOG2E - m)
