"""What rows of a pass need before and behind their recurrence, and that of few rows of a text: one after the other.

A pass has `tokens` neighbouring rows of each of its texts, at consecutive positions; those that are not used, at
position -1, come last. They leave states alone, and what they give is finite.

A text's states lie at its number: conv_state float32 [texts, KERNEL, CHANNELS], state float32 [texts, HEADS, HEAD_DIM
of k, HEAD_DIM of v]. The last kernel writes the former: until then, others read what the pass found there.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.fragments import place
from kernel_templates.cuda.gating import activate
from kernel_templates.cuda.instructions import to_half
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.gated_delta.cuda_parts import convolved, earlier, recur, sigmoid, softplus


@triton.jit
def delta_few_rows(
    projected, positions, texts, conv_state, state, conv, rate, dt_bias, eps, heads_out,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    KERNEL: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (head, split, text of the pass): COLUMNS of the head's values through the text's rows, the state staying
    in registers. Writes heads_out float32 [rows, HEADS * HEAD_DIM], not yet normed."""
    if PDL:
        gdc_launch_dependents()
    KEYS: tl.constexpr = KEY_HEADS * HEAD_DIM
    VALUES: tl.constexpr = HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEYS + VALUES
    SIZE: tl.constexpr = CHANNELS + VALUES + 2 * HEADS
    head, split = tl.program_id(0), tl.program_id(1)
    row = tl.program_id(2) * TOKENS
    key = tl.arange(0, DIMS)
    value = split * COLUMNS + tl.arange(0, COLUMNS)
    real_key, real_value = key < HEAD_DIM, value < HEAD_DIM
    q_at = head % KEY_HEADS * HEAD_DIM + key
    k_at, v_at = KEYS + q_at, 2 * KEYS + head * HEAD_DIM + value

    # Rows' places and texts, and states, are of earlier passes: loaded while the previous kernel still runs.
    first = tl.load(positions + row)
    text = tl.load(texts + row).to(tl.int64)
    conv_state += text * (KERNEL * CHANNELS)
    state += (text * HEADS + head) * (HEAD_DIM * HEAD_DIM)
    cell = key[:, None] * HEAD_DIM + value[None, :]
    inside = real_key[:, None] & real_value[None, :]
    s = tl.load(state + cell, mask=inside & (first > 0), other=0.0)
    slowness, bias = tl.load(rate + head), tl.load(dt_bias + head)
    projected += row.to(tl.int64) * SIZE
    heads_out += row.to(tl.int64) * VALUES + head * HEAD_DIM
    if PDL:
        gdc_wait()
    for t in tl.range(0, TOKENS, num_stages=1):
        position = tl.load(positions + row + t)
        mine = projected + t * SIZE
        q = earlier(mine, conv_state, conv, q_at, real_key, position, t, KERNEL, CHANNELS, SIZE)
        k = earlier(mine, conv_state, conv, k_at, real_key, position, t, KERNEL, CHANNELS, SIZE)
        v = earlier(mine, conv_state, conv, v_at, real_value, position, t, KERNEL, CHANNELS, SIZE)
        q = convolved(q, mine, conv, q_at, real_key, KERNEL, CHANNELS, ASM)
        k = convolved(k, mine, conv, k_at, real_key, KERNEL, CHANNELS, ASM)
        v = convolved(v, mine, conv, v_at, real_value, KERNEL, CHANNELS, ASM)
        log_decay = slowness * softplus(tl.load(mine + CHANNELS + VALUES + HEADS + head) + bias)
        gate = sigmoid(tl.load(mine + CHANNELS + VALUES + head))
        after, y = recur(s, q, k, v, log_decay, gate, eps, HEAD_DIM)
        s = tl.where(position >= 0, after, s)
        tl.store(heads_out + t * VALUES + value, tl.where(position >= 0, y, 0.0), mask=real_value)
    tl.store(state + cell, s, mask=inside & (first >= 0))


@triton.jit
def convolve_rows(
    projected, positions, texts, conv_state, conv, eps, mixed, rows,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    KERNEL: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (block of rows, head of q, k or v): the head after the convolution, queries and keys normed, as float16
    [rows, CHANNELS]; zeros of rows that are not used."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    VALUES: tl.constexpr = HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEY_HEADS * HEAD_DIM + VALUES
    SIZE: tl.constexpr = CHANNELS + VALUES + 2 * HEADS
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    head = tl.program_id(1)
    dim = tl.arange(0, DIMS)[None, :]
    position = tl.load(positions + row, mask=row < rows, other=-1)
    text = tl.load(texts + row, mask=row < rows, other=0).to(tl.int64)
    inside = (position >= 0) & (dim < HEAD_DIM)
    channel = head * HEAD_DIM + dim + row * 0
    mine, state = projected + row.to(tl.int64) * SIZE, conv_state + text * (KERNEL * CHANNELS)
    x = earlier(mine, state, conv, channel, inside, position, row % TOKENS, KERNEL, CHANNELS, SIZE)
    x = convolved(x, mine, conv, channel, inside, KERNEL, CHANNELS, ASM)
    if head < 2 * KEY_HEADS:
        x = x * tl.rsqrt(tl.sum(x * x, 1) + eps)[:, None]
    tl.store(mixed + row.to(tl.int64) * CHANNELS + channel, to_half(x), mask=(row < rows) & (dim < HEAD_DIM))


@triton.jit
def finish_rows(
    projected, positions, texts, conv_state, heads_out, norm, eps, out,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    KERNEL: tl.constexpr, GROUP: tl.constexpr, SHARE: tl.constexpr, WIDTH: tl.constexpr, ORDER: tl.constexpr,
    PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (row, i): GROUP heads, normed and gated, as float16 [rows, WIDTH] in an order of columns; and of the last
    KERNEL rows of a text a SHARE of their q, k and v before the convolution, to the text's ring."""
    if PDL:
        gdc_launch_dependents()
    VALUES: tl.constexpr = HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEY_HEADS * HEAD_DIM + VALUES
    SIZE: tl.constexpr = CHANNELS + VALUES + 2 * HEADS
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dim = tl.arange(0, DIMS)[None, :]
    head = part * GROUP + tl.arange(0, GROUP)[:, None]
    inside = (head < HEADS) & (dim < HEAD_DIM)
    weight = tl.load(norm + dim, mask=dim < HEAD_DIM, other=0.0)
    column = head * HEAD_DIM + dim
    projected += row * SIZE
    if PDL:
        gdc_wait()
    position = tl.load(positions + row)
    text = tl.load(texts + row).to(tl.int64)
    last = row % TOKENS + KERNEL >= TOKENS
    if not last:
        last = tl.load(positions + row + KERNEL) < 0
    y = tl.load(heads_out + row * VALUES + column, mask=inside, other=0.0)
    z = tl.load(projected + CHANNELS + column, mask=inside, other=0.0)
    inverse = tl.rsqrt(tl.sum(y * y, 1) * (1.0 / HEAD_DIM) + eps)[:, None]
    made = to_half(y * inverse * weight * activate(z, False, ASM))
    tl.store(out + row * WIDTH + place(column, ORDER), made, mask=inside)
    if last and position >= 0:
        channel = part * SHARE + tl.arange(0, SHARE)
        ring = conv_state + text * (KERNEL * CHANNELS) + position % KERNEL * CHANNELS
        owned = channel < CHANNELS
        tl.store(ring + channel, tl.load(projected + channel, mask=owned), mask=owned)
