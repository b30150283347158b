"""What a gated delta net must give, in float64, row after row."""

from itertools import pairwise

import numpy as np

from kernel_templates import float64, memory, random_inputs
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.operation import Inputs


def inputs(problem: GatedDelta, seed: int) -> Inputs:
    """Buffers, float32 but for integers: projected [rows * projected_size], conv [kernel * channels], its first tap
    the oldest, decay, dt_bias [heads], norm [head_dim], eps [1], conv_state [sequences, kernel, channels], state
    [sequences, heads, head_dim of v, head_dim of k], out [rows * value_size].

    Where these rows stand: of one row position int64 [1]; of several positions, sequences int32 [rows], the latter
    being whose states a row reads, and first_rows int32 [sequences + 1], where each text's rows begin and the last
    one's end. A row of position -1 is unused. Texts do not stand in the order of their states.

    Decays are as Mamba's training begins with: steps of 0.001 to 0.1 times a rate of up to 16. A state recalls values
    about as large as new ones. Queries are like keys: a query at right angles to all that a state remembers reads next
    to nothing, and the norm behind makes the rounding of that as large as one likes.
    """
    rng = np.random.default_rng(seed)
    steps = np.exp(rng.uniform(np.log(0.001), np.log(0.1), problem.heads))
    conv = random_inputs.vector(problem.kernel * problem.channels, rng)
    conv /= np.float32(problem.kernel**0.5)
    queries, keys = slice(problem.key_size), slice(problem.key_size, 2 * problem.key_size)
    taps = conv[: problem.kernel * problem.channels].reshape(problem.kernel, -1)
    taps[:, queries] = taps[:, keys]
    buffers = {
        "projected": random_inputs.vector(problem.rows * problem.projected_size, rng),
        "conv": conv,
        "decay": -np.exp(rng.uniform(np.log(0.1), np.log(16), problem.heads)).astype(np.float32),
        "dt_bias": np.log(np.expm1(steps)).astype(np.float32),
        "norm": random_inputs.norm_weight(problem.head_dim, rng),
        "eps": np.array([1e-6], np.float32),
        "conv_state": _normal((problem.sequences, problem.kernel, problem.channels), rng),
        "state": _normal((problem.sequences, problem.heads, problem.head_dim, problem.head_dim), rng),
        "out": random_inputs.buffer(problem.rows * problem.value_size),
    }
    buffers["state"] *= np.float32(0.5)
    projected = buffers["projected"][: problem.rows * problem.projected_size].reshape(problem.rows, -1)
    for rows in (projected, buffers["conv_state"]):
        rows[..., queries] = np.float32(0.6) * rows[..., queries] + np.float32(0.8) * rows[..., keys]
    first = rng.integers(problem.kernel, 200, problem.sequences)
    if problem.rows == 1:
        return Inputs({}, {**buffers, "position": first.astype(np.int64)})
    positions = first[:, None] + np.arange(problem.tokens)
    texts = rng.permutation(problem.sequences)
    places = {
        "positions": positions.ravel().astype(np.int32),
        "sequences": np.repeat(texts, problem.tokens).astype(np.int32),
        "first_rows": np.arange(0, problem.rows + 1, problem.tokens, dtype=np.int32),
    }
    return Inputs({}, {**buffers, **places})


def outputs(problem: GatedDelta, given: Inputs) -> dict[str, np.ndarray]:
    """out, and both states whole. A buffer "position", int64 [1], is where the first row of every text stands."""
    b = given.buffers
    positions, texts, starts = _places(problem, b)
    projected = b["projected"][: problem.rows * problem.projected_size].reshape(problem.rows, -1).astype(np.float64)
    conv_state, state = b["conv_state"].astype(np.float64), b["state"].astype(np.float64)
    out = np.zeros((problem.rows, problem.value_size))
    for start, end in pairwise(starts):
        for row in range(start, end):
            if positions[row] >= 0:
                here = int(texts[row])
                out[row] = _row(problem, b, projected[row], int(positions[row]), conv_state[here], state[here])
    return {"out": out.ravel(), "conv_state": conv_state, "state": state}


def tolerance(problem: GatedDelta) -> float:
    """One row is float32 throughout. Of several, what products of their rows read may be rounded to float16, as out is
    for the next product: 2^-11 each at most, four times on the way to the state. What a text's earlier rows leave wrong
    in it decays with it."""
    return 1e-4 if problem.rows == 1 else 2e-3


def cpu_tolerance(problem: GatedDelta) -> float:
    """float32 throughout: a hundred times what sums in another order differ by, a tenth of rounding to float16."""
    return 2e-5


def _row(problem: GatedDelta, b, projected, position: int, conv_state: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One row's out; both states [kernel, channels] and [heads, head_dim, head_dim] become what it leaves."""
    dim, heads, kernel = problem.head_dim, problem.heads, problem.kernel
    qkv, z, beta, alpha = np.split(projected, np.cumsum([problem.channels, problem.value_size, heads]))
    conv_state[position % kernel] = qkv
    if position == 0:
        state[:] = 0
    taps = b["conv"][: kernel * problem.channels].reshape(kernel, -1).astype(np.float64)
    back = [t for t in range(kernel) if t <= position]
    mixed = float64.silu(sum(taps[kernel - 1 - t] * conv_state[(position - t) % kernel] for t in back))
    q, k, v = (part.reshape(-1, dim) for part in np.split(mixed, [problem.key_size, 2 * problem.key_size]))
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + b["eps"][0]) for x in (q, k))
    q, k = (np.tile(x, (heads // problem.key_heads, 1)) for x in (q / dim**0.5, k))
    decay, dt_bias = (b[name][:heads].astype(np.float64) for name in ("decay", "dt_bias"))
    state *= np.exp(decay * np.logaddexp(0, alpha + dt_bias))[:, None, None]
    recalled = np.einsum("hvk,hk->hv", state, k)
    learned = (v - recalled) / (1 + np.exp(-beta))[:, None]
    state += learned[:, :, None] * k[:, None, :]
    normed = float64.rms_norm(np.einsum("hvk,hk->hv", state, q), b["norm"][:dim], b["eps"][0])
    return normed.ravel() * float64.silu(z)


def _places(problem: GatedDelta, b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """positions and sequences [rows], first_rows [sequences + 1]."""
    one = problem.rows == 1
    texts = np.zeros(1, np.int32) if one else b["sequences"]
    starts = np.arange(2) if one else b["first_rows"]
    if "position" not in b:
        return b["positions"], texts, starts
    return b["position"][0] + np.arange(problem.rows) % problem.tokens, texts, starts


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    drawn = memory.zeros(shape, np.float32)
    drawn[:] = rng.standard_normal(shape, np.float32)
    return drawn
