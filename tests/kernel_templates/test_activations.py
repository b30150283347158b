"""Activations as kernels read them: what quantizing may lose, the sums beside the quants, and RMSNorm."""

import numpy as np
import pytest
from numba import njit

from kernel_templates import memory
from kernel_templates.cpu.activations import BLOCK, LIMIT, ActivationLayout, normalizer, quantizer

INTEGER_KINDS = ("int8", "int16")
each_layout = pytest.mark.parametrize(("kind", "pairs"), [(k, p) for k in INTEGER_KINDS for p in (False, True)])


def quantize(x: np.ndarray, kind: str, pairs: bool = False) -> dict[str, np.ndarray]:
    """The fields of the buffer that the quantizer writes for x float32 [cols]."""
    layout = ActivationLayout(len(x), kind, pairs)
    fill = quantizer(layout)

    @njit
    def run(source, target):
        fill(source, target)

    out = memory.empty((layout.bytes + 64,), np.uint8)
    out.fill(0xA5)
    source = memory.empty((len(x),), np.float32)
    source[:] = x
    run(source.ctypes.data, out.ctypes.data)
    assert np.all(out[layout.bytes :] == 0xA5), "wrote past the end of its buffer"
    if kind == "f32":
        return {"x": out[: 4 * len(x)].view(np.float32)}
    blocks, cols = len(x) // BLOCK, len(x)
    if pairs:
        quants = out[: 2 * cols].view(np.int16).reshape(-1, 4)[:, [0, 2, 1, 3]].astype(np.int64)
    else:
        quants = out[:cols].view(np.int8).astype(np.int64)
        if kind == "int16":
            quants = 128 * quants + out[cols : 2 * cols].view(np.int8)
    return {
        "quants": quants.reshape(blocks, BLOCK),
        "scales": out[layout.scales :][: 4 * blocks].view(np.float32),
        "sums": out[layout.sums :][: 4 * blocks].view(np.int32),
        "half_sums": out[layout.half_sums :][: 8 * blocks].view(np.int32),
    }


def samples(cols: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(cols).standard_normal(cols) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 96.5, 1e10, 1e30])
@each_layout
def test_rounding_costs_at_most_half_a_step(kind, pairs, scale):
    x = samples(512, scale)
    got, blocks = quantize(x, kind, pairs), x.reshape(-1, BLOCK).astype(np.float64)
    step = np.abs(blocks).max(1) / LIMIT[kind]
    assert np.allclose(got["scales"], step, rtol=1e-6, atol=0)
    back = got["quants"] * got["scales"].astype(np.float64)[:, None]
    # On top of half a step, what float32 loses between x and x times the inverse of the step.
    assert np.all(np.abs(back - blocks) <= (0.5 + 4e-7 * LIMIT[kind]) * step[:, None])


@each_layout
def test_quants_stay_in_their_range(kind, pairs):
    x = samples(256)
    x[::BLOCK], x[1::BLOCK] = 7.0, -7.0  # both ends of the range in each block
    got = quantize(x, kind, pairs)["quants"]
    assert got.max() == LIMIT[kind] and got.min() == -LIMIT[kind]


def test_two_planes_are_as_good_as_fifteen_bits():
    x = samples(1024)
    errors = {}
    for kind in INTEGER_KINDS:
        got = quantize(x, kind)
        errors[kind] = np.linalg.norm(got["quants"].reshape(-1) * got["scales"].repeat(BLOCK) - x) / np.linalg.norm(x)
    assert errors["int8"] < 0.008
    assert errors["int16"] < 0.008 / 100


@pytest.mark.parametrize("cols", [32, 96, 576, 1536])
@each_layout
def test_sums_are_those_of_the_quants(kind, pairs, cols):
    got = quantize(samples(cols), kind, pairs)
    assert np.array_equal(got["sums"], got["quants"].sum(1))
    assert np.array_equal(got["half_sums"].reshape(-1, 2), got["quants"].reshape(-1, 2, 16).sum(2))


@each_layout
def test_blocks_of_nothing_are_zero(kind, pairs):
    x = samples(128)
    x[32:64] = 0.0
    x[64:96] = 1e-38  # 1/x overflows: lost, not infinite
    x[64] = 1e-45
    got = quantize(x, kind, pairs)
    assert not got["quants"][1:3].any() and not got["sums"][1:3].any() and not got["half_sums"][2:6].any()
    assert got["scales"][1] == 0
    assert np.all(np.isfinite(got["scales"]))
    assert got["quants"][0].any() and got["quants"][3].any()


@each_layout
def test_the_largest_floats_survive(kind, pairs):
    x = samples(64)
    x[5] = 3.4e38
    got = quantize(x, kind, pairs)
    assert got["quants"][0, 5] == LIMIT[kind]
    assert np.count_nonzero(got["quants"][0]) == 1
    assert np.isclose(got["scales"][0] * LIMIT[kind], 3.4e38)


def test_float_activations_are_copied():
    x = samples(544)
    assert np.array_equal(quantize(x, "f32")["x"], x)


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_pairs_are_the_same_quants(kind):
    x = samples(256)
    plain, paired = quantize(x, kind), quantize(x, kind, pairs=True)
    assert all(np.array_equal(plain[name], paired[name]) for name in plain)


@pytest.mark.parametrize(
    ("kind", "pairs"), [("int8", False), ("int16", False), ("int8", True), ("int16", True), ("f32", False)]
)
@pytest.mark.parametrize("cols", [32, 96, 576])
def test_fields_do_not_overlap(kind, pairs, cols):
    layout = ActivationLayout(cols, kind, pairs)
    assert layout.bytes % 64 == 0
    if kind == "f32":
        assert layout.bytes >= 4 * cols
    else:
        assert cols * layout.planes * layout.size <= layout.scales < layout.sums < layout.half_sums < layout.bytes
        assert layout.scales % 4 == layout.sums % 4 == layout.half_sums % 4 == 0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("cols", [48, 64, 576, 4096])
def test_rms_norm(cols, scale):
    normalize = normalizer(cols)

    @njit
    def run(x, weight, out, eps):
        normalize(x, weight, out, eps)

    rng = np.random.default_rng(cols)
    x, weight, out = (memory.empty((cols,), np.float32) for _ in range(3))
    x[:], weight[:] = rng.standard_normal(cols) * scale, np.exp(rng.uniform(-2, 4.5, cols))
    eps = np.float32(1e-6)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(np.mean(wide * wide) + np.float64(eps)) * weight
    for target in (out, x):  # in place too, as the heads' norms run
        run(x.ctypes.data, weight.ctypes.data, target.ctypes.data, eps)
        assert np.max(np.abs(target - expected) / np.abs(expected)) < 1e-6


def test_rms_norm_of_zeros_is_zero():
    normalize = normalizer(64)

    @njit
    def run(x, weight, out, eps):
        normalize(x, weight, out, eps)

    x, weight, out = memory.empty((64,), np.float32), memory.empty((64,), np.float32), memory.empty((64,), np.float32)
    x.fill(0), weight.fill(3), out.fill(np.nan)
    run(x.ctypes.data, weight.ctypes.data, out.ctypes.data, np.float32(1e-6))
    assert np.all(out == 0)
