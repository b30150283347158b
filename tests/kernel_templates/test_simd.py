"""Every vector operator and intrinsic against numpy, at widths that are no power of two as well."""

import operator

import numpy as np
import pytest
from kernel_harness import DTYPES, vector_function
from numba import njit

from kernel_templates.cpu import simd
from kernel_templates.cpu.activations import exponential

LANES = (16, 48, 64)
I32 = np.int32


@pytest.fixture(params=LANES, ids=lambda n: f"{n} lanes")
def lanes(request) -> int:
    return request.param


def random(kind: str, lanes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind.startswith(("f", "bf")):
        return (rng.standard_normal(lanes) * 10).astype(DTYPES[kind])
    info = np.iinfo(DTYPES[kind])
    values = rng.integers(info.min, info.max, lanes, DTYPES[kind], endpoint=True)
    values[:4] = info.min, info.max, 0, -1
    return values


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.and_, operator.or_, operator.xor])
def test_integer_operators_wrap(op, lanes):
    a, b = random("i32", lanes), random("i32", lanes, 1)
    got = vector_function(njit(lambda x, y: op(x, y)), ("i32", "i32"), "i32", lanes)(a, b)
    with np.errstate(over="ignore"):
        assert same(got, op(a, b))


@pytest.mark.parametrize("kind", ["i8", "i16"])
def test_narrow_integers_add(kind, lanes):
    a, b = random(kind, lanes), random(kind, lanes, 1)
    got = vector_function(njit(lambda x, y: x + y), (kind, kind), kind, lanes)(a, b)
    with np.errstate(over="ignore"):
        assert same(got, a + b)


def test_shifts_are_of_bits_not_of_numbers(lanes):
    a, by = random("i32", lanes), np.arange(lanes, dtype=I32) % 32
    left = vector_function(njit(lambda x, y: x << y), ("i32", "i32"), "i32", lanes)(a, by)
    right = vector_function(njit(lambda x, y: x >> y), ("i32", "i32"), "i32", lanes)(a, by)
    signed = vector_function(simd.shift_arithmetic, ("i32", "i32"), "i32", lanes)(a, by)
    assert same(left, a << by)
    assert same(right, (a.view(np.uint32) >> by.view(np.uint32)).view(I32))
    assert same(signed, a >> by)


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_float_operators_round_once(op, lanes):
    a, b = random("f32", lanes), random("f32", lanes, 1)
    got = vector_function(njit(lambda x, y: op(x, y)), ("f32", "f32"), "f32", lanes)(a, b)
    assert same(got, op(a, b))


@pytest.mark.parametrize(
    ("function", "reference"),
    [(simd.maximum, np.fmax), (simd.minimum, np.fmin)],
    ids=["maximum", "minimum"],
)
def test_extremes_of_two(function, reference, lanes):
    a, b = random("f32", lanes), random("f32", lanes, 1)
    a[:3] = np.inf, -np.inf, np.nan  # of a number and NaN, the number
    assert np.array_equal(vector_function(function, ("f32", "f32"), "f32", lanes)(a, b), reference(a, b))


def test_absolute_clears_the_sign_of_zero_too(lanes):
    a = random("f32", lanes)
    a[:2] = -0.0, -np.inf
    assert same(vector_function(simd.absolute, ("f32",), "f32", lanes)(a), np.abs(a))


def test_fma_rounds_once(lanes):
    a, b = random("f32", lanes), random("f32", lanes, 1)
    c = -(a * b)  # what is left is the rounding error of the product, gone if the product is rounded first
    exact = (a.astype(np.float64) * b + c).astype(np.float32)
    got = vector_function(simd.fma, ("f32", "f32", "f32"), "f32", lanes)(a, b, c)
    assert same(got, exact)
    assert np.count_nonzero(got) > lanes // 2


def test_splat_fills_every_lane(lanes):
    whole, real = simd.splat("i32", lanes), simd.splat("f32", lanes)

    @njit
    def fill(integers, floats):
        simd.store(integers, whole(I32(-7)))
        simd.store(floats, real(np.float32(0.1)))

    integers, floats = np.zeros(lanes, I32), np.zeros(lanes, np.float32)
    fill(integers.ctypes.data, floats.ctypes.data)
    assert np.all(integers == -7)
    assert np.all(floats == np.float32(0.1))


@pytest.mark.parametrize("kind", list(DTYPES))
def test_load_and_store_move_bits_at_any_alignment(kind, lanes):
    load = simd.load(kind, lanes)

    @njit
    def move(source, target):
        simd.store(target, load(source))

    size = DTYPES[kind]().itemsize
    for skip in (0, size, 3 * size):
        data = np.frombuffer(np.random.default_rng(skip).bytes(skip + lanes * size), np.uint8)
        out = np.zeros(skip + lanes * size + 1, np.uint8)
        move(data.ctypes.data + skip, out.ctypes.data + skip)
        assert out[skip:-1].tobytes() == data[skip:].tobytes()
        assert not out[:skip].any()
        assert out[-1] == 0


def test_scalars_in_memory():
    @njit
    def touch(f, i, j, h):
        simd.store_f32(f + 4, simd.load_f32(f) * np.float32(2.0))
        simd.store_i32(i + 4, simd.load_i32(i) - I32(1))
        simd.store_i64(j + 8, simd.load_i64(j) + 1)
        simd.store_f16(h, simd.load_f32(f))
        simd.prefetch(j)
        simd.prefetch(0)  # a hint, never a fault

    f, i = np.array([1.2345678, 0], np.float32), np.array([-(2**31), 0], I32)
    j, h = np.array([2**62, 0], np.int64), np.zeros(2, np.float16)
    touch(*(a.ctypes.data for a in (f, i, j, h)))
    assert f[1] == f[0] * 2 and i[1] == 2**31 - 1 and j[1] == 2**62 + 1
    assert h.tolist() == [np.float16(f[0]), 0]


@pytest.mark.parametrize("kind", ["i32", "f16", "f32"])
def test_to_f32(kind, lanes):
    a = random(kind, lanes)
    if kind == "f16":
        a[:4] = 6e-8, -65504, np.inf, -0.0  # a subnormal, the largest, infinity, negative zero
    assert same(vector_function(simd.to_f32, (kind,), "f32", lanes)(a), a.astype(np.float32))


def test_bf16_is_the_upper_half_of_f32(lanes):
    bits = np.random.default_rng(3).integers(0, 1 << 16, lanes, np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    assert same(vector_function(simd.to_f32, ("bf16",), "f32", lanes)(bits), expected)


def rounding_cases(kept_bits: int, lanes: int) -> np.ndarray:
    """f32 numbers around the halfway points between neighbours that keep `kept_bits` of the mantissa: ties and their
    own neighbours, over odd and even last bits and both signs."""
    dropped = 23 - kept_bits
    last = np.arange(lanes, dtype=np.uint32) % 8
    offset = np.array([0, 1, -1, 0], np.int64)[np.arange(lanes) // 8 % 4]
    bits = 0x3F800000 + (last.astype(np.int64) << dropped) + (1 << (dropped - 1)) + offset
    values = bits.astype(np.uint32).view(np.float32).copy()
    values[1::2] *= -1
    return values


def test_to_f16_rounds_ties_to_even(lanes):
    to_f16 = vector_function(simd.to_f16, ("f32",), "f16", lanes)
    edges = random("f32", lanes)
    edges[:8] = 65504, 65519.99, 65520, 1e-8, 2.9802322e-08, 2.9802326e-08, -0.0, -np.inf
    for values in (rounding_cases(10, lanes), edges):
        with np.errstate(over="ignore"):
            assert same(to_f16(values), values.astype(np.float16))


def test_store_f16_rounds_ties_to_even():
    @njit
    def write(out, value):
        simd.store_f16(out, value)

    out = np.zeros(1, np.float16)
    for value in rounding_cases(10, 32):
        write(out.ctypes.data, value)
        assert out[0] == np.float16(value)


def test_keep_first_from_none_to_all_and_beyond(lanes):
    load = simd.load("f32", lanes)

    @njit
    def keep(a, count, out):
        simd.store(out, simd.keep_first(load(a), count, np.float32(-3.0)))

    a, out = random("f32", lanes), np.zeros(lanes, np.float32)
    for count in (-1, 0, 1, lanes // 2 + 1, lanes - 1, lanes, lanes + 1, 1 << 40):
        keep(a.ctypes.data, count, out.ctypes.data)
        expected = np.where(np.arange(lanes) < count, a, np.float32(-3.0))
        assert same(out, expected), count


def test_widen_and_narrow(lanes):
    small, large = random("i8", lanes), random("i32", lanes)
    assert same(vector_function(simd.widen, ("i8",), "i32", lanes)(small), small.astype(I32))
    assert same(vector_function(simd.narrow, ("i32",), "i8", lanes)(large), large.astype(np.int8))


def test_round_to_i32_takes_ties_to_even(lanes):
    values = (np.arange(lanes, dtype=np.float32) - lanes // 2) / 2
    values[:2] = 2147483520.0, -2147483648.0
    assert same(vector_function(simd.round_to_i32, ("f32",), "i32", lanes)(values), np.rint(values).astype(I32))


def test_as_f32_bits(lanes):
    bits = random("i32", lanes)
    assert same(vector_function(simd.as_f32_bits, ("i32",), "f32", lanes)(bits), bits.view(np.float32))


def test_sums_and_largest_over_lanes(lanes):
    load, load_i = simd.load("f32", lanes), simd.load("i32", lanes)

    @njit
    def reduce(a, i):
        return simd.sum_f32(load(a)), simd.max_f32(load(a)), simd.sum_i32(load_i(i))

    a, i = random("f32", lanes), random("i32", lanes)
    total, largest, whole = reduce(a.ctypes.data, i.ctypes.data)
    assert abs(total - a.sum(dtype=np.float64)) <= 1e-6 * np.abs(a).sum()
    assert largest == a.max()
    assert whole == int(i.sum(dtype=np.int64).astype(I32))
    for at in (0, lanes - 1):  # the largest is found in the first and the last lane too
        a[at] = 1e6 + at
        assert reduce(a.ctypes.data, i.ctypes.data)[1] == a[at]


def test_vectors_of_different_types_do_not_mix():
    from numba.core.errors import TypingError

    for kinds in (("i32", "f32"), ("f16", "f32")):
        with pytest.raises(TypingError):
            vector_function(njit(lambda x, y: x + y), kinds, "f32", 16)(np.zeros(16), np.zeros(16))


def test_exponential_keeps_its_promise(lanes):
    exp = vector_function(exponential(lanes), ("f32",), "f32", lanes)
    points = np.concatenate([np.linspace(-87, 88, 200 * lanes - 7), [-0.0, 1e-30, -1e-30, 0.5, np.log(2), 88, -87]])
    points = points.astype(np.float32)
    got = np.concatenate([exp(part) for part in points.reshape(-1, lanes)]).astype(np.float64)
    exact = np.exp(points.astype(np.float64))
    assert np.max(np.abs(got - exact) / exact) < 3e-7


def test_exponential_clamps_what_float32_cannot_hold():
    exp = vector_function(exponential(16), ("f32",), "f32", 16)
    got = exp(np.array([-3e38, -np.inf, -100, -88, 89, 100, 3e38, np.inf] * 2))
    assert np.all(np.isfinite(got))
    assert np.all(got[:4] <= 1.7e-38)
    assert np.all(got[4:8] >= 1.6e38)


def test_the_largest_magnitude_is_nan_where_a_lane_is(lanes):
    load = simd.load("f32", lanes)

    @njit
    def largest(a):
        return simd.max_magnitude(load(a))

    a = random("f32", lanes)
    for at in (0, lanes // 2, lanes - 1):
        a[at] = np.float32(-1e6 - at)
        assert largest(a.ctypes.data) == 1e6 + at
    a[1] = -np.inf
    assert largest(a.ctypes.data) == np.inf
    a[lanes - 2] = np.nan
    assert np.isnan(largest(a.ctypes.data))


def test_exponential_keeps_nan(lanes):
    a = np.full(lanes, -3e38, np.float32)
    a[3], a[5] = np.nan, np.inf
    got = vector_function(exponential(lanes), ("f32",), "f32", lanes)(a)
    assert np.isnan(got[3]) and np.isfinite(np.delete(got, 3)).all() and got[0] < 1e-37 and got[5] > 1e38
