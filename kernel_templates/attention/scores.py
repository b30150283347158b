"""What the GPU's attention kernels do with a score: scale it, cap it softly; and which positions have one at all."""

import triton
import triton.language as tl

from kernel_templates.cuda.instructions import soft_cap

LOG2E = tl.constexpr(1.4426950408889634)


@triton.constexpr_function
def factor(scale, softcap):
    """What a query is multiplied with: what gives scores in units of log 2, unless they have to be capped first."""
    return scale if softcap else LOG2E.value * scale


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
