"""One token of one text: convolution, gates, recurrence and gated norm in one kernel.

The states of all layers are a few percent of what a token reads and writes, so what counts is the way from the previous
kernel's end to this one's. The state, the convolution's earlier rows and its taps are loaded before the wait; after it
there is one exchange between warps for all that is summed over keys. The norm goes over all values of a head: where
programs share them, the last one to finish has them all.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.gating import activate
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.cuda.quantize import store_groups
from kernel_templates.gated_delta.cuda_parts import convolved, earlier, recur, sigmoid, softplus


@triton.jit
def delta_token(
    projected, conv_state, state, position_at, conv, rate, dt_bias, norm, eps, out, high, low, scale, squares, counters,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, KERNEL: tl.constexpr,
    COLUMNS: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr, ACT: tl.constexpr, PDL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Program (head, split): COLUMNS of its values. DIMS: HEAD_DIM, or the next power of two.

    projected: float32 [q, k, v, z, b, a]; conv_state: [KERNEL, channels]; state: [HEADS, HEAD_DIM of k, HEAD_DIM of v];
    counters: int32 [HEADS], zeros before and after, of heads that programs share.
    """
    if PDL and EARLY:
        gdc_launch_dependents()
    KEYS: tl.constexpr = KEY_HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEYS + HEADS * HEAD_DIM
    Z: tl.constexpr = CHANNELS
    B: tl.constexpr = Z + HEADS * HEAD_DIM
    A: tl.constexpr = B + HEADS
    head, split = tl.program_id(0), tl.program_id(1)
    key = tl.arange(0, DIMS)
    value = split * COLUMNS + tl.arange(0, COLUMNS)
    real_key, real_value = key < HEAD_DIM, value < HEAD_DIM
    q_at = head % KEY_HEADS * HEAD_DIM + key
    k_at, v_at = KEYS + q_at, 2 * KEYS + head * HEAD_DIM + value

    # Written by earlier tokens, or never: loaded while the previous kernel still runs.
    position = tl.load(position_at)
    state += head * (HEAD_DIM * HEAD_DIM)
    cell = key[:, None] * HEAD_DIM + value[None, :]
    inside = real_key[:, None] & real_value[None, :]
    s = tl.load(state + cell, mask=inside & (position > 0), other=0.0)
    q_before = earlier(projected, conv_state, conv, q_at, real_key, position, 0, KERNEL, CHANNELS, 0)
    k_before = earlier(projected, conv_state, conv, k_at, real_key, position, 0, KERNEL, CHANNELS, 0)
    v_before = earlier(projected, conv_state, conv, v_at, real_value, position, 0, KERNEL, CHANNELS, 0)
    slowness, bias = tl.load(rate + head), tl.load(dt_bias + head)
    e, g = tl.arange(0, 8)[:, None], tl.arange(0, DIMS // 8)[None, :]
    of_head = g * 8 + e
    in_head = of_head < HEAD_DIM
    weight = tl.load(norm + of_head, mask=in_head, other=0.0)
    if PDL:
        gdc_wait()
    q = convolved(q_before, projected, conv, q_at, real_key, KERNEL, CHANNELS, ASM)
    k = convolved(k_before, projected, conv, k_at, real_key, KERNEL, CHANNELS, ASM)
    v = convolved(v_before, projected, conv, v_at, real_value, KERNEL, CHANNELS, ASM)
    z = tl.load(projected + Z + head * HEAD_DIM + of_head, mask=in_head, other=0.0)
    log_decay = slowness * softplus(tl.load(projected + A + head) + bias)
    gate = sigmoid(tl.load(projected + B + head))
    if PDL and not EARLY:
        gdc_launch_dependents()
    s, y = recur(s, q, k, v, log_decay, gate, eps, HEAD_DIM)
    tl.store(state + cell, s, mask=inside)
    # This position's place in the ring: none of this token's programs reads it.
    place = conv_state + position % KERNEL * CHANNELS
    tl.store(place + v_at, tl.load(projected + v_at, mask=real_value), mask=real_value)
    if head < KEY_HEADS and split == 0:
        tl.store(place + q_at, tl.load(projected + q_at, mask=real_key), mask=real_key)
        tl.store(place + k_at, tl.load(projected + k_at, mask=real_key), mask=real_key)

    last = True
    first = head * HEAD_DIM
    if SPLITS > 1:
        tl.store(out + first + value, y, mask=real_value)
        tl.debug_barrier()  # every thread's stores before the count: Triton puts no barrier there
        last = tl.atomic_add(counters + head, 1, sem="acq_rel") == SPLITS - 1
    if last:
        if SPLITS > 1:
            tl.store(counters + head, 0)  # for the next token
            # Past the first-level cache, which other programs' stores do not reach.
            grouped = tl.load(out + first + of_head, mask=in_head, other=0.0, cache_modifier=".cg")
            tl.debug_barrier()  # all of it is read before some of it is overwritten
        else:
            grouped = tl.trans(tl.reshape(tl.where(real_value, y, 0.0), [DIMS // 8, 8]))
        mean = tl.sum(tl.sum(grouped * grouped, 0), 0) * (1.0 / HEAD_DIM)
        made = grouped * tl.rsqrt(mean + eps) * weight * activate(z, False, ASM)
        zero = tl.zeros([8, DIMS // 8], tl.int32)
        store_groups(
            out, high, low, scale, squares, head * (HEAD_DIM // 8) + g + zero, e + zero, made, made, in_head, ACT, ASM
        )  # fmt: skip
