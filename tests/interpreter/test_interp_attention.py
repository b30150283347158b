"""Decoding attention's GPU kernels in Triton's interpreter, against float64: every position, group and head size."""

import numpy as np
import pytest
import torch

from kernel_templates import float64
from kernel_templates.attention import cuda, reference, space
from kernel_templates.attention.problem import Attention
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.vector import Vector
from kernel_templates.norm_qkv_rope import qk_norm_rope_append
from kernel_templates.norm_qkv_rope.problem import NormQkvRope

CAPACITY, EPS = 96, 1e-6


def slow(*values):
    """A case that adds little to the others and takes a second."""
    return pytest.param(*values, marks=pytest.mark.slow)


def config(tile=32, warps=1, splits=1, combine="last", heads=1):
    sizes = {"tile": tile, "warps": warps, "splits": splits, "heads": heads}
    return {**sizes, "algorithm": space.THREADS, "combine": combine, "prefetch": 0, "stages": 1, "early": 1}


def on_tensor_cores(tile, splits, stages, combine="last", heads=2):
    return {**config(tile, 4, splits, combine, heads), "algorithm": space.TENSOR_CORES, "stages": stages}


class Token:
    """Random raw projections, caches filled up to `position` and NaN from there, poisoned outputs; and the truth."""

    def __init__(self, heads, kv_heads, head_dim, position, rope_dim=0, qk_norm=True, seed=0, **traits):
        rng = np.random.default_rng(seed)
        self.heads, self.kv_heads, self.dim, self.position = heads, kv_heads, head_dim, position
        self.rope_dim, self.qk_norm = rope_dim or head_dim, qk_norm
        self.problem = Attention(heads, kv_heads, head_dim, CAPACITY, **traits)
        window = self.problem.window or CAPACITY
        self.oldest = max(position + 1 - window, 0)
        self.q_norm = np.exp(rng.uniform(np.log(0.1), np.log(2.0), head_dim)).astype(np.float32)
        self.k_norm = np.exp(rng.uniform(np.log(0.1), np.log(96.5), head_dim)).astype(np.float32)
        self.k_norm[0] = 96.5
        angles = np.arange(CAPACITY)[:, None] * 1e4 ** (-np.arange(0, self.rope_dim, 2) / self.rope_dim)
        self.rope = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        shape = (kv_heads, CAPACITY, head_dim)
        caches = [rng.standard_normal(shape).astype(np.float16) for _ in range(2)]
        for c in caches:
            c[:, position:] = np.nan
            c[:, : self.oldest] = np.nan
        size = heads * head_dim
        self.buffers = {
            "q": torch.from_numpy(rng.standard_normal((heads + 2 * kv_heads) * head_dim).astype(np.float32)),
            "keys": torch.from_numpy(caches[0]),
            "values": torch.from_numpy(caches[1]),
            "position": torch.tensor([position], dtype=torch.int32),
            "out": Vector.allocate(-(-size // 32) * 32, "cpu"),
        }
        if self.problem.sinks:
            self.buffers["sinks"] = torch.from_numpy(reference.sinks(heads, position + 1, rng)[:heads].copy())

    def finish(self):
        to = torch.from_numpy
        return cuda.Finish(self.qk_norm, self.rope_dim, to(self.q_norm), to(self.k_norm), to(self.rope), EPS)

    def finished(self):
        """q [heads, dim], k, v [kv_heads, dim], float64, as they have to come out of norm and RoPE."""
        raw = self.buffers["q"].double().numpy().reshape(-1, self.dim)
        q, k, v = np.split(raw, [self.heads, self.heads + self.kv_heads])
        if self.qk_norm:
            q, k = float64.rms_norm(q, self.q_norm, EPS), float64.rms_norm(k, self.k_norm, EPS)
        half = self.rope_dim // 2
        cos, sin = self.rope[self.position, :half].astype(float), self.rope[self.position, half:].astype(float)
        return float64.rope(q, cos, sin), float64.rope(k, cos, sin), v

    def expected(self, q, k, v):
        """float64 [heads, dim] with k, v at the position."""
        seen = slice(self.oldest, self.position + 1)
        keys, values = (self.buffers[n].double().numpy()[:, seen].copy() for n in ("keys", "values"))
        keys[:, -1], values[:, -1] = k.astype(np.float16), v.astype(np.float16)
        scores = np.einsum("kgd,kpd->kgp", q.reshape(self.kv_heads, -1, self.dim), keys) * self.problem.score_scale
        scores = float64.soft_cap(scores, self.problem.softcap)
        largest, lost = scores.max(-1, keepdims=True), 0.0
        if self.problem.sinks:
            sink = self.buffers["sinks"].double().numpy().reshape(self.kv_heads, -1, 1)
            largest = np.maximum(largest, sink)
            lost = np.exp(sink - largest)
        weights = np.exp(scores - largest)
        out = np.einsum("kgp,kpd->kgd", weights / (weights.sum(-1, keepdims=True) + lost), values)
        return out.reshape(self.heads, self.dim)

    def run(self, chosen, activation="int16"):
        """With prologue; checks output, planes and caches."""
        q, k, v = self.finished()
        expected = self.expected(q, k, v)
        before = {n: self.buffers[n].clone() for n in ("keys", "values")}
        for launch in cuda.launches(self.problem, chosen, (), self.buffers, self.finish(), activation):
            launch.run(INTERPRETED)
        out = self.buffers["out"]
        size = self.heads * self.dim
        # Keys are rounded to float16 before the score: one step of 96.5 * sqrt(dim) moves a score by some 1e-2.
        close(out.values[:size].reshape(self.heads, -1), expected, 2e-2 if self.qk_norm else 1e-3)
        planes(out, size, activation)
        for name, new in (("keys", k), ("values", v)):
            np.testing.assert_allclose(self.buffers[name][:, self.position].double(), new, rtol=1.5e-3, atol=1e-3)
            before[name][:, self.position] = self.buffers[name][:, self.position]
            assert torch.equal(self.buffers[name].nan_to_num(7.0), before[name].nan_to_num(7.0)), "another row changed"


def close(out, expected, tolerance=1e-5):
    error = np.linalg.norm(np.asarray(out, np.float64) - expected) / np.linalg.norm(expected)
    assert error < tolerance, error


def planes(out, size, activation):
    """The planes say the values, within half a step of their group's scale."""
    if not activation:
        assert out.scale.isnan().all()
        return
    values, quantized = out.values[:size], out.quantized(activation)[:size]
    step = values.reshape(-1, 8).abs().amax(1) / {"int16": 32767, "int8": 127}[activation]
    assert torch.all((values - quantized).abs() <= 0.51 * step.repeat_interleave(8) + 1e-12)
    np.testing.assert_allclose(out.scale[: size // 8], step, rtol=1e-6)


@pytest.mark.parametrize("position", [0, slow(31), 95])
@pytest.mark.parametrize(
    ("chosen", "at_once"),
    [
        (config(16), False), (config(16, 1, 2, heads=2), False), (config(16, 1, 4, "kernel"), False),
        (config(128, 4), True), (config(32, 2, 4, heads=2), True), slow(config(16, 1, 8), True),
        slow(config(32, 1, 4, "kernel"), True),
    ],
)  # fmt: skip
def test_any_position_whatever_the_splits(position, chosen, at_once):
    """Whole shares at once or tile by tile; most splits are empty at first, all busy at no position but the last."""
    token = Token(2, 1, 32, position, qk_norm=False)
    assert space.one_pass(token.problem, chosen) == at_once
    token.run(chosen)


@pytest.mark.parametrize("position", [0, slow(38), 39, 40, slow(71), 95])
@pytest.mark.parametrize(
    ("chosen", "at_once"),
    [
        (config(16), False), (config(16, 1, 2, heads=2), False), (config(32, 1, 2), True),
        (config(16, 1, 4, "kernel", 2), True), slow(config(16, 1, 2, "kernel"), False), slow(config(64, 2), True),
    ],
)  # fmt: skip
def test_window(position, chosen, at_once):
    """Nothing before it is read, and shares are of what it holds: the cache is NaN on both sides."""
    token = Token(2, 1, 32, position, qk_norm=False, window=40)
    assert space.one_pass(token.problem, chosen) == at_once
    token.run(chosen)


@pytest.mark.parametrize("qk_norm", [True, slow(False)])
@pytest.mark.parametrize("chosen", [config(16, 1, 2, heads=2), config(64, 1, 2), slow(config(16, 1, 8, "kernel"))])
def test_soft_cap_and_scale(chosen, qk_norm):
    """The owner of the new position caps that score as all the others; with a norm, after its factor."""
    Token(2, 1, 32, 90, qk_norm=qk_norm, softcap=3.0, scale=0.4).run(chosen)
    Token(2, 1, 32, 90, qk_norm=qk_norm, softcap=3.0, window=17).run(chosen)


@pytest.mark.parametrize("position", [0, 90])
@pytest.mark.parametrize(
    ("chosen", "at_once"),
    [
        (config(16, 1, 1, heads=2), False), (config(16, 1, 4), False), (config(16, 1, 2, "kernel", 2), False),
        (config(128, 4), True), (config(32, 1, 4, heads=2), True), (config(32, 1, 4, "kernel"), True),
    ],
)  # fmt: skip
def test_sinks_count_once(chosen, at_once, position):
    """However many splits a head's positions have, and where one split has all that there is."""
    token = Token(4, 2, 32, position, qk_norm=False, sinks=1)
    assert space.one_pass(token.problem, chosen) == at_once
    token.run(chosen)


@pytest.mark.parametrize("chosen", [config(16, 1, 2, heads=2), config(64, 1, 2, heads=2), config(16, 1, 2, "kernel")])
def test_sinks_beside_a_window_and_a_soft_cap(chosen):
    """The cap is not for the sink."""
    Token(4, 1, 32, 90, sinks=1, window=40, softcap=3.0, scale=0.4).run(chosen)


@pytest.mark.parametrize("chosen", [config(16), config(32, 1, 4), config(16, 1, 4, "kernel")])
def test_sinks_beyond_what_exp_can_hold(chosen):
    """One that takes all, one that takes nothing."""
    token = Token(2, 1, 32, 60, qk_norm=False, sinks=1)
    token.buffers["sinks"] = torch.tensor([-2000.0, 2000.0])
    q, k, v = token.finished()
    expected = token.expected(q, k, v)
    assert not expected[1].any()
    for launch in cuda.launches(token.problem, chosen, (), token.buffers, token.finish()):
        launch.run(INTERPRETED)
    close(token.buffers["out"].values[:64].reshape(2, 32), expected, 1e-3)


@pytest.mark.parametrize("chosen", [config(16, 8), config(64, 8), slow(config(16, 4, 2, "kernel", 2))])
def test_heads_of_256(chosen):
    Token(2, 1, 256, 60, 128, window=33, softcap=50.0).run(chosen)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(2, 2, 80), (3, 1, 16), slow(2, 2, 16), slow(3, 1, 80), slow(4, 1, 16), (4, 1, 80)],
)
def test_groups_and_head_sizes(heads, kv_heads, head_dim):
    """All heads of a group in a program, tile by tile and at once."""
    if heads * head_dim % 32:
        heads, kv_heads = 2 * heads, 2 * kv_heads
    group, warps = heads // kv_heads, 1 if head_dim < 64 else 2
    for chosen in (config(32, warps, 2, "kernel", group), config(64, warps, 2, "last", group)):
        Token(heads, kv_heads, head_dim, 40, seed=head_dim).run(chosen)


@pytest.mark.parametrize(
    ("head_dim", "rope_dim", "qk_norm"),
    [(96, 48, True), (80, 80, False), (128, 64, True), slow(96, 48, False), slow(80, 80, True), slow(128, 64, False)],
)
def test_partial_rope(head_dim, rope_dim, qk_norm):
    for chosen in (config(16, 1, 2, heads=2), config(64, 1, 2)):
        Token(2, 1, head_dim, 37, rope_dim, qk_norm).run(chosen)


@pytest.mark.parametrize("activation", [slow("int16"), "int8", ""])
@pytest.mark.parametrize("chosen", [config(16, 2), config(64, 4, 2, "kernel"), config(128, 4)])
def test_every_activation(activation, chosen):
    Token(3, 1, 64, 90).run(chosen, activation)


@pytest.mark.parametrize(
    "chosen",
    [config(16, 1, 4, heads=2), config(32, 1, 4), slow(config(32, 1, 4, "kernel", 2)), on_tensor_cores(16, 2, 3)],
)
def test_second_token_sees_the_first(chosen):
    """Through shared scratch and counters, which every token must leave as it found them."""
    first = Token(2, 1, 64, 47, seed=1)
    first.buffers["attention_scratch"] = torch.full((max(1, cuda.scratch_size(first.problem, chosen)),), np.nan)
    first.buffers["attention_counters"] = torch.zeros(4, dtype=torch.int32)
    first.run(chosen)
    assert not first.buffers["attention_counters"].any()
    second = Token(2, 1, 64, 48, seed=2)
    second.buffers |= {n: b for n, b in first.buffers.items() if n not in ("q", "position", "out")}
    second.run(chosen)
    assert not second.buffers["keys"][:, 47:49].isnan().any()


@pytest.mark.parametrize(
    "chosen",
    [
        config(64, 4),
        config(32, 1, 2, heads=3),
        slow(config(16, 1, 8)),
        slow(config(16, 2, 4, "kernel")),
        slow(config(64, 2, 16, heads=3)),
    ],
)
@pytest.mark.parametrize("sinks", [0, 1])
def test_alone_as_the_problem_is_judged(chosen, sinks):
    problem = Attention(3, 1, 64, 75, sinks=sinks)
    given = reference.inputs(problem, 3)
    buffers = cuda.prepare(problem, given, "cpu")
    expected = reference.outputs(problem, given)["out"]
    for launch in cuda.launches(problem, chosen, cuda.pack(problem, chosen, {}, "cpu"), buffers):
        launch.run(INTERPRETED)
    close(cuda.collect(problem, buffers)["out"], expected, reference.tolerance(problem) / 10)
    planes(buffers["out"], 3 * 64, "int16")


@pytest.mark.parametrize("position", [0, slow(31), 64, 95])
@pytest.mark.parametrize(
    ("chosen", "traits"),
    [
        (on_tensor_cores(32, 4, 1), {}), (on_tensor_cores(32, 2, 3, "kernel"), {"sinks": 1}),
        (on_tensor_cores(16, 4, 3), {"window": 40}), (on_tensor_cores(32, 1, 3), {"softcap": 3.0, "scale": 0.4}),
        (on_tensor_cores(32, 2, 4), {"sinks": 1}), (on_tensor_cores(16, 4, 3, "kernel"), {"window": 40}),
    ],
)  # fmt: skip
def test_tensor_cores(chosen, traits, position):
    """One tile a share, or tiles by asynchronous copies; every trait."""
    Token(4, 2, 64, position, qk_norm=False, **traits).run(chosen)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 1, 64), (8, 1, 80), slow(4, 1, 256), (5, 1, 64)])
def test_groups_and_head_sizes_on_tensor_cores(heads, kv_heads, head_dim):
    """Rows that no head fills are padding, and so are elements."""
    group = heads // kv_heads
    for chosen in (on_tensor_cores(32, 2, 3, "last", group), on_tensor_cores(128, 1, 1, "last", group)):
        Token(heads, kv_heads, head_dim, 70, seed=head_dim).run(chosen)


@pytest.mark.parametrize(
    "chosen",
    [
        on_tensor_cores(32, 4, 3, heads=4), on_tensor_cores(128, 1, 1, heads=4),
        on_tensor_cores(32, 2, 4, "kernel", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("traits", [{}, {"sinks": 1}, {"output_gate": 1}])
def test_tensor_cores_are_exact(chosen, traits):
    """float16 queries and weights with what float16 leaves of them: no further from float64 than threads."""
    problem = Attention(4, 1, 64, 75, **traits)
    given = reference.inputs(problem, 3)
    buffers = cuda.prepare(problem, given, "cpu")
    expected = reference.outputs(problem, given)["out"]
    for launch in cuda.launches(problem, chosen, (), buffers):
        launch.run(INTERPRETED)
    close(cuda.collect(problem, buffers)["out"], expected, 2e-6)


@pytest.mark.parametrize(("head_dim", "rope_dim", "qk_norm"), [(80, 40, 1), slow(128, 128, 0)])
def test_finish_as_a_kernel_of_its_own(head_dim, rope_dim, qk_norm):
    """The other way to the same result: norm, RoPE and append first, attention over final queries then."""
    token = Token(4, 2, head_dim, 50, rope_dim, bool(qk_norm))
    q, k, v = token.finished()
    expected = token.expected(q, k, v)
    formats = ("Q4_0", "Q4_0", "Q4_0")
    problem = NormQkvRope(64, 4, 2, head_dim, rope_dim, qk_norm, *formats)
    finish = token.finish()
    extra = {
        "qkv": token.buffers["q"],
        "rope": finish.rope,
        "eps": EPS,
        "q_norm": finish.q_norm,
        "k_norm": finish.k_norm,
    }
    qk_norm_rope_append.finish_launch(problem, token.buffers | extra).run(INTERPRETED)
    close(token.buffers["q"][: 4 * head_dim].reshape(4, -1), q, 1e-6)
    close(token.buffers["keys"][:, 50], k, 1e-3)
    close(token.buffers["values"][:, 50], v, 1e-3)
    for launch in cuda.launches(token.problem, config(32, 1, 2), (), token.buffers):
        launch.run(INTERPRETED)
    close(token.buffers["out"].values.reshape(4, -1), expected, 2e-2 if qk_norm else 1e-3)


@pytest.mark.parametrize(
    "chosen", [config(16, 1, 4), config(128, 4), slow(config(32, 1, 4)), on_tensor_cores(32, 2, 3)]
)
def test_extreme_scores(chosen):
    """Scores of thousands, as the largest K-norm weights allow: one position takes all, and nothing overflows."""
    token = Token(2, 1, 64, 60)
    token.k_norm[:] = 96.5
    token.q_norm[:] = 10.0
    token.buffers["keys"][:, :60] *= 300
    token.run(chosen)
