"""Choosing a token for every row of logits at once: the single text's stages over a second axis of the grid.

A row is a text, or a token of one; program_id(1) is its number. Its position in `positions` keys its random numbers, so
a row draws what the single text's kernels draw from the same logits. Rows at position -1 are not in use: nothing of
theirs is read or written.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.sample_token import sampling
from kernel_templates.sample_token.kernels import is_finite, load_ranks, rank, ranked_token, ranked_value
from kernel_templates.sample_token.sampling import COARSE, FINE, STATE

COUNTS, MASSES = tl.constexpr(COARSE.value + 2 * FINE.value), tl.constexpr(COARSE.value + 4 * FINE.value)
STATES = tl.constexpr(5 * STATE.value)
"""Items of a row in counts, masses and state."""


@triton.jit
def used(positions, PDL: tl.constexpr):
    """Whether this program's row is in use; waits for the kernel before."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    return tl.load(positions + tl.program_id(1)) >= 0


@triton.jit
def row_of(logits, vocab):
    """The logits of this program's row."""
    return logits + tl.program_id(1).to(tl.int64) * vocab


@triton.jit
def partial_argmax_rows(
    logits, positions, best_value, best_id, vocab,
    PARTIALS: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """best_value, best_id [rows, PARTIALS] = the largest of each SIZE logits of logits [rows, vocab]; NaN above all."""
    if used(positions, PDL):
        i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        logit = tl.load(row_of(logits, vocab) + i, mask=i < vocab, other=float("-inf"))
        best = tl.max(rank(logit, i), 0)
        at = tl.program_id(1) * PARTIALS + tl.program_id(0)
        tl.store(best_value + at, ranked_value(best))
        tl.store(best_id + at, ranked_token(best))


@triton.jit
def coarse_rows(
    logits, positions, best_value, temperature_top_p, top_k_seed, counts, masses, peak, vocab,
    PARTIALS: tl.constexpr, CHUNK: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Stage 1 of every row."""
    if used(positions, PDL):
        row = tl.program_id(1)
        sampling.coarse(
            row_of(logits, vocab), best_value + row * PARTIALS, temperature_top_p + row * 2, top_k_seed + row * 3,
            counts + row * COUNTS, masses + row * MASSES, peak + row, vocab, PARTIALS, CHUNK, SIZE, False, ASM,
        )  # fmt: skip


@triton.jit
def refine_rows(
    logits, positions, temperature_top_p, top_k_seed, counts, masses, peak, state, vocab,
    STAGE: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Stages 2 to 5 of every row."""
    if used(positions, PDL):
        row = tl.program_id(1)
        if STAGE < 4:
            sampling.refine_count(
                row_of(logits, vocab), temperature_top_p + row * 2, top_k_seed + row * 3, counts + row * COUNTS,
                masses + row * MASSES, peak + row, state + row * STATES, vocab, STAGE, SIZE, False, ASM,
            )  # fmt: skip
        else:
            sampling.refine_mass(
                row_of(logits, vocab), temperature_top_p + row * 2, top_k_seed + row * 3, counts + row * COUNTS,
                masses + row * MASSES, peak + row, state + row * STATES, vocab, STAGE, SIZE, False, ASM,
            )  # fmt: skip


@triton.jit
def draw_rows(
    logits, positions, temperature_top_p, top_k_seed, masses, peak, state, best_value, best_id, vocab,
    PARTIALS: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The draw of every row, as partial argmaxes [rows, PARTIALS]."""
    if used(positions, PDL):
        row = tl.program_id(1)
        sampling.draw(
            row_of(logits, vocab), temperature_top_p + row * 2, top_k_seed + row * 3, masses + row * MASSES, peak + row,
            state + row * STATES, positions + row, best_value + row * PARTIALS, best_id + row * PARTIALS, vocab,
            SIZE, False, ASM,
        )  # fmt: skip


@triton.jit
def choose_rows(
    best_value, best_id, positions, chosen,
    PARTIALS: tl.constexpr, CHUNK: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """chosen int32 [rows, 2] = the token of each row's best partial argmax, and 0. A NaN anywhere, or no finite best,
    leaves token 0 and 1. A grid of (1, rows)."""
    if used(positions, PDL):
        row = tl.program_id(1)
        p = tl.arange(0, CHUNK)
        best = tl.max(load_ranks(best_value + row * PARTIALS, best_id + row * PARTIALS, p, PARTIALS), 0)
        finite = is_finite(ranked_value(best))
        tl.store(chosen + row * 2, tl.where(finite, ranked_token(best), 0))
        tl.store(chosen + row * 2 + 1, tl.where(finite, 0, 1))


@triton.jit
def advance(
    chosen, tokens, positions, history, step,
    ROWS: tl.constexpr, SLOTS: tl.constexpr, STRIDE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """What was chosen for each row in use becomes its next token: tokens = chosen, positions += 1, so that steps follow
    each other on the device. history [SLOTS, STRIDE, 2], item step % SLOTS, keeps `chosen` for the host; step += 1.

    One program; SLOTS is a power of two.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.arange(0, ROWS)
    token, broken = tl.load(chosen + row * 2), tl.load(chosen + row * 2 + 1)
    position, now = tl.load(positions + row), tl.load(step)
    inside = position >= 0
    out = history + (now & (SLOTS - 1)) * (2 * STRIDE) + row * 2
    tl.store(out, token, mask=inside)
    tl.store(out + 1, broken, mask=inside)
    tl.store(tokens + row, token, mask=inside)
    tl.store(positions + row, position + 1, mask=inside)
    tl.store(step, now + 1)
