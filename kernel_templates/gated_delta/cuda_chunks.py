"""Many rows of a text by chunks, whose rows meet each other in products of matrices on tensor cores.

Within a chunk that begins with the state S (the WY form of Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, with the
decays of a chunk's rows summed up in G, from its first row on, and K, Q normed):

    A[i, j] = gate_i exp(G_i - G_j) k_i k_j  for j < i, else 0
    U = (I + A)^-1 diag(gate) (V - exp(G) K S)                       what each row adds to the state
    out = (exp(G) Q S + P U) / sqrt(head_dim),  P[i, j] = exp(G_i - G_j) q_i k_j  for j <= i, else 0
    S' = exp(G_last) S + K^T exp(G_last - G) U

(I + A)^-1 diag(gate) and P concern rows alone: `meet` makes them for all chunks at once, `scan` goes through a text's
chunks one after the other. No exponent is above 0. Of the inverse no power of A is made, which could be as large as a
binomial coefficient where keys are alike. Blocks of BASE rows on its diagonal are eliminated row after row, as by hand,
all at once; then two neighbouring ones X and Y become one of twice their size, whose lower left part is -Y A X.

Operands of products are float16, sums, decays and the state float32. The inverse is applied to what the state does not
know yet, not to keys and values apart: what was rounded is as small as that.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.instructions import opaque, to_half
from kernel_templates.gated_delta.cuda_parts import sigmoid, softplus

BASE = tl.constexpr(16)


@triton.jit
def inverse_of_blocks(a, CHUNK: tl.constexpr):
    """(I + a)^-1 of the blocks of BASE rows on the diagonal, zeros elsewhere; a: float32 [CHUNK, CHUNK], strictly
    lower."""
    BLOCKS: tl.constexpr = CHUNK // BASE
    one = tl.arange(0, BLOCKS)[:, None, None, None] == tl.arange(0, BLOCKS)[None, None, :, None]
    blocks = tl.sum(tl.where(one, tl.reshape(a, [BLOCKS, BASE, BLOCKS, BASE]), 0.0), 2)
    i, j = tl.arange(0, BASE)[None, :, None], tl.arange(0, BASE)[None, None, :]
    x = tl.where(i == j, 1.0, tl.zeros_like(blocks))
    for done in tl.static_range(BASE - 1):
        column = tl.sum(tl.where(j == done, blocks, 0.0), 2)
        row = tl.sum(tl.where(i == done, x, 0.0), 1)
        x -= column[:, :, None] * row[:, None, :]
    return tl.reshape(tl.where(one, x[:, :, None, :], 0.0), [CHUNK, CHUNK])


@triton.jit
def meet(
    projected, positions, mixed, rate, dt_bias, decays, solved, scores,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    CHUNK: tl.constexpr, LEVELS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (head, chunk of a text, text of the pass): decays float32 [HEADS, texts, chunks, CHUNK], the sums G; and,
    float16 [HEADS, texts, chunks, CHUNK, CHUNK], solved: (I + A)^-1 diag(gate), scores: P. CHUNK is BASE << LEVELS."""
    if PDL:
        gdc_launch_dependents()
    VALUES: tl.constexpr = HEADS * HEAD_DIM
    KEYS: tl.constexpr = KEY_HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEYS + VALUES
    SIZE: tl.constexpr = CHANNELS + VALUES + 2 * HEADS
    head, chunk, text = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i = tl.arange(0, CHUNK)
    t = chunk * CHUNK + i
    row = (text * TOKENS + t).to(tl.int64)
    slowness, bias = tl.load(rate + head), tl.load(dt_bias + head)
    if PDL:
        gdc_wait()
    used = tl.load(positions + row, mask=t < TOKENS, other=-1) >= 0
    gates = projected + row * SIZE + CHANNELS + VALUES + head
    gate = tl.where(used, sigmoid(tl.load(gates, mask=used, other=0.0)), 0.0)
    step = slowness * softplus(tl.load(gates + HEADS, mask=used, other=0.0) + bias)
    total = tl.cumsum(tl.where(used, step, 0.0), 0)
    dim = tl.arange(0, DIMS)[None, :]
    inside = (t < TOKENS)[:, None] & (dim < HEAD_DIM)
    at = mixed + row[:, None] * CHANNELS + head % KEY_HEADS * HEAD_DIM + dim
    q = tl.load(at, mask=inside, other=0.0)
    k = tl.load(at + KEYS, mask=inside, other=0.0)
    row_i, col_j = i[:, None], i[None, :]
    apart = tl.exp(tl.minimum(total[:, None] - total[None, :], 0.0))
    place = (((head * tl.num_programs(2) + text) * tl.num_programs(1) + chunk) * CHUNK).to(tl.int64)
    tl.store(decays + place + i, total)
    cell = place * CHUNK + row_i * CHUNK + col_j
    p = tl.where(col_j <= row_i, tl.dot(q, tl.trans(k)) * apart, 0.0)
    tl.store(scores + cell, p.to(tl.float16))
    a = tl.where(col_j < row_i, tl.dot(k, tl.trans(k)) * apart * gate[:, None], 0.0)
    x = inverse_of_blocks(a, CHUNK)
    for level in tl.static_range(LEVELS):
        row_block, col_block = row_i // (BASE << level), col_j // (BASE << level)
        below = (row_block != col_block) & (row_block // 2 == col_block // 2)
        known = x.to(tl.float16)
        x -= tl.dot(tl.dot(known, tl.where(below, a, 0.0).to(tl.float16)).to(tl.float16), known)
    tl.store(solved + cell, to_half(x * gate[None, :]))


@triton.jit
def scan(
    positions, texts, mixed, decays, solved, scores, state, heads_out,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    CHUNK: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Program (head, split, text of the pass): COLUMNS of the head's values through the text's chunks. Writes heads_out
    float32 [rows, HEADS * HEAD_DIM], not yet normed, and the text's state."""
    if PDL:
        gdc_launch_dependents()
    VALUES: tl.constexpr = HEADS * HEAD_DIM
    KEYS: tl.constexpr = KEY_HEADS * HEAD_DIM
    CHANNELS: tl.constexpr = 2 * KEYS + VALUES
    CHUNKS: tl.constexpr = (TOKENS + CHUNK - 1) // CHUNK
    head, split, text = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    key, i = tl.arange(0, DIMS), tl.arange(0, CHUNK)
    value = split * COLUMNS + tl.arange(0, COLUMNS)
    real_key, real_value = key < HEAD_DIM, value < HEAD_DIM
    cell = i[:, None] * CHUNK + i[None, :]

    # Rows' places and texts, and states, are of earlier passes: loaded while the previous kernel still runs.
    first = tl.load(positions + text * TOKENS)
    state += (tl.load(texts + text * TOKENS).to(tl.int64) * HEADS + head) * (HEAD_DIM * HEAD_DIM)
    of_state = key[:, None] * HEAD_DIM + value[None, :]
    inside = real_key[:, None] & real_value[None, :]
    s = tl.load(state + of_state, mask=inside & (first > 0), other=0.0)
    if PDL:
        gdc_wait()
    # A single turn stays a loop, too: of products in straight code ptxas 12.8 gets addresses wrong (`cuda.sass`).
    for chunk in tl.range(
        0, opaque(tl.full((), 1, tl.int32), ASM) if ASM and CHUNKS == 1 else CHUNKS, num_stages=STAGES
    ):
        t = chunk * CHUNK + i
        row = (text * TOKENS + t).to(tl.int64)[:, None]
        real = (t < TOKENS)[:, None]
        at = mixed + row * CHANNELS + head % KEY_HEADS * HEAD_DIM + key[None, :]
        q = tl.load(at, mask=real & real_key[None, :], other=0.0)
        k = tl.load(at + KEYS, mask=real & real_key[None, :], other=0.0)
        v_at = mixed + row * CHANNELS + 2 * KEYS + head * HEAD_DIM + value[None, :]
        v = tl.load(v_at, mask=real & real_value[None, :], other=0.0)
        place = (((head * tl.num_programs(2) + text) * CHUNKS + chunk) * CHUNK).to(tl.int64)
        total = tl.load(decays + place + i)
        end = tl.load(decays + place + CHUNK - 1)
        inverse = tl.load(solved + place * CHUNK + cell)
        p = tl.load(scores + place * CHUNK + cell)
        known = to_half(s)
        decayed = tl.exp(total)[:, None]
        new = v.to(tl.float32) - decayed * tl.dot(k, known)
        u = tl.dot(inverse, to_half(new))
        y = tl.dot(p, to_half(u), decayed * tl.dot(q, known)) * (HEAD_DIM**-0.5)
        tl.store(heads_out + row * VALUES + head * HEAD_DIM + value[None, :], y, mask=real & real_value[None, :])
        kept = to_half(u * tl.exp(end - total)[:, None])
        s = tl.dot(tl.trans(k), kept, s * tl.exp(end))
    tl.store(state + of_state, s, mask=inside & (first >= 0))
