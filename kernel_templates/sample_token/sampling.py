"""Top-k, top-p and the draw, over a grid of programs and without a sort.

llama.cpp's order: the k largest logits; of these the fewest most likely ones, at temperature 1, whose probability
reaches top-p; among these a draw at the temperature.

What is compared is a token's distance to the largest logit, d = peak - logit in float32, as a 27-bit key: the bits of
d + 1/32 as a float32, counted from those of 1/32. Keys rise with d, resolve what a float32 logit resolves, and their
upper 11 bits (16 octaves of 128 steps) spread any usual distribution over so many bins that atomic additions to one
bin seldom meet. The border is then found by radix: its bin of 2048, the bin of 256 inside that, the bin of 256 inside
that. Tokens that share the border's key are all kept, so top-k may keep more than k of equals.

Sums are integers (the probability mass e^-d in units of 2^-40), so the order of additions changes nothing: the same
logits, settings and position give the same token every time.

Stages, one kernel each; a stage starts, in every program alike, by finding the bin in what the last one counted:
1 tokens and mass by the upper bits; 2, 3 the same inside the bin of the k-th token; 4, 5 mass inside the bin where
top-p is reached; then the draw. Stages that the settings do not need return early.
"""

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.sample_token.kernels import is_finite, rank, ranked_token, ranked_value

COARSE, FINE = tl.constexpr(2048), tl.constexpr(256)
LAST_KEY = tl.constexpr((1 << 27) - 1)
STATE = tl.constexpr(4)
"""int64 numbers a stage leaves. Stages 2, 3: prefix, count left, mass before; 4, 5: prefix, mass left, top-k's key."""


@triton.jit
def read_settings(temperature_top_p, top_k_seed, vocab):
    """temperature, top_p, top_k, and what they ask for: (greedy, use top-k, use top-p)."""
    temperature, top_p = tl.load(temperature_top_p), tl.load(temperature_top_p + 1)
    top_k = tl.load(top_k_seed)
    greedy = (temperature < 1e-30) | (top_k == 1)
    use_k = (top_k > 0) & (top_k < vocab) & (greedy == 0)
    use_p = (top_p < 1.0) & (greedy == 0)
    return temperature, top_p, top_k, greedy, use_k, use_p


@triton.jit
def distance(peak, logit):
    """How far a logit lies below the largest, and the key that orders it. NaN counts as 0 here; the draw reports it."""
    d = tl.maximum(peak - logit, 0.0)
    key = (d + 0.03125).to(tl.int32, bitcast=True) - 0x3D000000
    return d, tl.minimum(tl.maximum(key, 0), LAST_KEY)


@triton.jit
def mass_of(d):
    """e^-d in units of 2^-40, int64."""
    return (tl.exp(-d) * 1099511627776.0 + 0.5).to(tl.int64)


@triton.jit
def find(sums, target):
    """The first bin at which the running sum reaches target, and the sum before it. sums int64 [bins]."""
    running = tl.cumsum(sums, 0)
    below = running < target
    return tl.sum(below.to(tl.int32), 0), tl.max(tl.where(below, running, 0), 0)


@triton.jit
def load_bins(pointer, BINS: tl.constexpr):
    return tl.load(pointer + tl.arange(0, BINS)).to(tl.int64)


@triton.jit
def mass_before(masses, bin, BINS: tl.constexpr):
    """Mass in the bins below `bin`."""
    return tl.sum(tl.where(tl.arange(0, BINS) < bin, load_bins(masses, BINS), 0), 0)


@triton.jit
def coarse(
    logits, best_value, temperature_top_p, top_k_seed, counts, masses, peak, vocab,
    PARTIALS: tl.constexpr, CHUNK: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Stage 1. peak = the largest of best_value [PARTIALS]; tokens and mass by the keys' upper bits."""
    if PDL:
        gdc_launch_dependents()
    _, _, _, _, use_k, use_p = read_settings(temperature_top_p, top_k_seed, vocab)
    if PDL:
        gdc_wait()
    program = tl.program_id(0)
    if use_k | use_p | (program == 0):
        i = program * SIZE + tl.arange(0, SIZE)
        inside = i < vocab
        logit = tl.load(logits + i, mask=inside, other=0.0)
        p = tl.arange(0, CHUNK)
        best = tl.full([CHUNK], float("-inf"), tl.float32)
        WHOLE: tl.constexpr = PARTIALS // 16 * 16  # so that their mask allows wide loads
        for first in tl.static_range(0, WHOLE, CHUNK):
            best = tl.maximum(best, tl.load(best_value + first + p, mask=first + p < WHOLE, other=float("-inf")))
        if WHOLE < PARTIALS:
            best = tl.maximum(best, tl.load(best_value + WHOLE + p, mask=WHOLE + p < PARTIALS, other=float("-inf")))
        top = tl.max(best, 0)
        d, key = distance(top, logit)
        if use_k:
            tl.atomic_add(counts + (key >> 16), 1, mask=inside, sem="relaxed")
        if use_p:
            mass = mass_of(d)
            tl.atomic_add(masses + (key >> 16), mass, mask=inside & (mass > 0), sem="relaxed")
        if program == 0:
            tl.store(peak, top)
            # The later stages' bins; stage 5 empties this one's.
            fine = tl.arange(0, FINE)
            for stage in tl.static_range(2):
                tl.store(counts + COARSE + stage * FINE + fine, 0)
            for stage in tl.static_range(4):
                tl.store(masses + COARSE + stage * FINE + fine, tl.zeros([FINE], tl.int64))


@triton.jit
def refine_count(
    logits, temperature_top_p, top_k_seed, counts, masses, peak, state, vocab,
    STAGE: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Stages 2 and 3: tokens and mass by the next 8 bits inside the bin of the k-th token."""
    if PDL:
        gdc_launch_dependents()
    _, _, top_k, _, use_k, use_p = read_settings(temperature_top_p, top_k_seed, vocab)
    if PDL:
        gdc_wait()
    if use_k:
        i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        logit = tl.load(logits + i, mask=i < vocab, other=0.0)
        top = tl.load(peak)
        if STAGE == 2:
            bin, before = find(load_bins(counts, COARSE), top_k)
            prefix, left = bin, top_k - before
            mass = mass_before(masses, bin, COARSE)
        else:
            left = tl.load(state + 1)
            bin, before = find(load_bins(counts + COARSE, FINE), left)
            prefix, left = (tl.load(state).to(tl.int32) << 8) | bin, left - before
            mass = tl.load(state + 2) + mass_before(masses + COARSE, bin, FINE)
        if tl.program_id(0) == 0:
            out = state + (STAGE - 2) * STATE
            tl.store(out, prefix.to(tl.int64))
            tl.store(out + 1, left.to(tl.int64))
            tl.store(out + 2, mass)
        SHIFT: tl.constexpr = 8 if STAGE == 2 else 0
        d, key = distance(top, logit)
        here = (i < vocab) & (key >> (SHIFT + 8) == prefix)
        at = COARSE + (STAGE - 2) * FINE + ((key >> SHIFT) & 255)
        tl.atomic_add(counts + at, 1, mask=here, sem="relaxed")
        if use_p:
            tl.atomic_add(masses + at, mass_of(d), mask=here, sem="relaxed")


@triton.jit
def refine_mass(
    logits, temperature_top_p, top_k_seed, counts, masses, peak, state, vocab,
    STAGE: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Stages 4 and 5: mass by the next 8 bits inside the bin where top-p of what top-k kept is reached."""
    if PDL:
        gdc_launch_dependents()
    _, top_p, _, _, use_k, use_p = read_settings(temperature_top_p, top_k_seed, vocab)
    if PDL:
        gdc_wait()
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    out = state + (STAGE - 2) * STATE
    if STAGE == 4:
        border = tl.full([], LAST_KEY, tl.int32)
        total = tl.full([], 0, tl.int64)
        if use_k:
            last, _before = find(load_bins(counts + COARSE + FINE, FINE), tl.load(state + STATE + 1))
            border = (tl.load(state + STATE).to(tl.int32) << 8) | last
            total = tl.load(state + STATE + 2) + mass_before(masses + COARSE + FINE, last + 1, FINE)
            if tl.program_id(0) == 0:
                tl.store(out + 2, border.to(tl.int64))
    if use_p:
        logit = tl.load(logits + i, mask=i < vocab, other=0.0)
        top = tl.load(peak)
        if STAGE == 4:
            sums = load_bins(masses, COARSE)
            if use_k == 0:
                total = tl.sum(sums, 0)
            target = tl.ceil(total.to(tl.float64) * top_p.to(tl.float64)).to(tl.int64)
            left = tl.maximum(target, 1)
            prefix, below = find(sums, left)
            left -= below
        else:
            left = tl.load(out - STATE + 1)
            bin, below = find(load_bins(masses + COARSE + 2 * FINE, FINE), left)
            prefix, left = (tl.load(out - STATE).to(tl.int32) << 8) | bin, left - below
        if tl.program_id(0) == 0:
            tl.store(out, prefix.to(tl.int64))
            tl.store(out + 1, left)
        SHIFT: tl.constexpr = 8 if STAGE == 4 else 0
        d, key = distance(top, logit)
        at = COARSE + (STAGE - 2) * FINE + ((key >> SHIFT) & 255)
        tl.atomic_add(masses + at, mass_of(d), mask=(i < vocab) & (key >> (SHIFT + 8) == prefix), sem="relaxed")
    if STAGE == 5 and tl.program_id(0) == 0:  # nobody reads stage 1's bins any more: empty for the next token
        bins = tl.arange(0, COARSE)
        tl.store(counts + bins, tl.zeros([COARSE], tl.int32))
        tl.store(masses + bins, tl.zeros([COARSE], tl.int64))


@triton.jit
def exponential(token, position, seed_low, seed_high):
    """A draw from the exponential distribution for every token: Philox of (token, position) under the seed.

    -log(1 - u), with a series where u is small: the tokens that win have small draws, and those need all their bits.
    """
    c0 = token.to(tl.uint32, bitcast=True)
    c1 = c0 * 0 + position.to(tl.uint32, bitcast=True)
    key0, key1 = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    bits, _, _, _ = tl.philox_impl(c0, c1, c0 * 0, c0 * 0, key0, key1)
    u = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    small = u * (1.0 + u * (0.5 + u * (0.33333334 + u * (0.25 + u * 0.2))))
    return tl.where(u < 0.015625, small, -tl.log(1.0 - u))


@triton.jit
def draw(
    logits, temperature_top_p, top_k_seed, masses, peak, state, position, best_value, best_id, vocab,
    SIZE: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Gumbel-max over the tokens that are kept: a program's best logit / temperature - log(exponential draw).

    Its argmax is distributed as softmax(logits / temperature). NaN where a logit is NaN or the largest is not finite.
    """
    if PDL:
        gdc_launch_dependents()
    temperature, _, _, greedy, use_k, use_p = read_settings(temperature_top_p, top_k_seed, vocab)
    low, high = tl.load(top_k_seed + 1), tl.load(top_k_seed + 2)
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    noise = tl.zeros([SIZE], tl.float32)
    if greedy == 0:
        noise = tl.log(exponential(i, tl.load(position), low, high))
    else:
        temperature = 1.0
    if PDL:
        gdc_wait()
    logit = tl.load(logits + i, mask=i < vocab, other=float("-inf"))
    top = tl.load(peak)
    border = tl.full([], LAST_KEY, tl.int32)
    if use_k:
        border = tl.load(state + 2 * STATE + 2).to(tl.int32)
    if use_p:
        bin, _before = find(load_bins(masses + COARSE + 3 * FINE, FINE), tl.load(state + 3 * STATE + 1))
        border = (tl.load(state + 3 * STATE).to(tl.int32) << 8) | bin
    if tl.program_id(0) == 0:
        tl.store(state + 4 * STATE, border.to(tl.int64))
    d, key = distance(top, logit)
    score = tl.where((i < vocab) & (key <= border), -d / temperature - noise, float("-inf"))
    broken = (logit != logit) | (is_finite(top) == 0)
    best = tl.max(rank(tl.where(broken, float("nan"), score), i), 0)
    tl.store(best_value + tl.program_id(0), ranked_value(best))
    tl.store(best_id + tl.program_id(0), ranked_token(best))
