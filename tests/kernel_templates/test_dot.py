"""Every way to multiply unsigned weight bytes with signed activations gives the same integers."""

import itertools

import numpy as np
import pytest
from numba import njit

from kernel_templates.cpu import dot, machine, simd

LANES = (16, 32, 64, 128)
HERE = machine.features()
# Fewer features than the machine has make the same path use narrower registers.
VARIANTS = {
    "generic": [HERE],
    "madd": [HERE, HERE - {"avx512bw"}, HERE - {"avx512bw", "avx2"}],
    "vnni": [HERE, HERE - {"avx512vnni"}],
}
PATHS = [
    pytest.param(path, features, id=f"{path}-{number}")
    for path, variants in VARIANTS.items()
    for number, features in enumerate(dict.fromkeys(variants))
    if path in dot.available(features)
]


def compiled(path: str, lanes: int, features: frozenset[str]):
    multiply, load = dot.dot4(path, lanes, features), simd.load("i32", lanes)

    @njit
    def run(acc, words, x, more, out):
        simd.store(out, multiply(load(acc), load(words), x, more))

    def on_arrays(acc: np.ndarray, words: np.ndarray, x: np.ndarray) -> np.ndarray:
        """acc int32 [lanes], words uint8 [lanes, 4], x int8 [4], or int16 where the path takes pairs."""
        out = np.zeros(lanes, np.int32)
        acc, words = np.ascontiguousarray(acc), np.ascontiguousarray(words)
        x = x.astype(np.int16)[[0, 2, 1, 3]] if dot.takes_pairs(path) else x.astype(np.int8)
        run(acc.ctypes.data, words.ctypes.data, x.view(np.int32)[0], x.view(np.int32)[-1], out.ctypes.data)
        return out

    return on_arrays


def reference(acc: np.ndarray, words: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (acc.astype(np.int64) + words.astype(np.int64) @ x.astype(np.int64)).astype(np.int32)


@pytest.mark.parametrize(("path", "features"), PATHS)
@pytest.mark.parametrize("lanes", LANES)
def test_a_path_is_exact_in_every_lane(path, features, lanes):
    run, rng = compiled(path, lanes, features), np.random.default_rng(lanes)
    # 255 * -128 twice is -65280: an instruction that adds pairs in 16 bits with saturation (pmaddubsw) gives -32768.
    extremes = itertools.product((0, 1, 127, 128, 255), (-128, -127, -1, 0, 127))
    for weight, activation in extremes:
        words, x = np.full((lanes, 4), weight, np.uint8), np.full(4, activation, np.int8)
        acc = rng.integers(-(2**24), 2**24, lanes).astype(np.int32)
        assert np.array_equal(run(acc, words, x), reference(acc, words, x)), (weight, activation)
    for _ in range(20):
        acc = rng.integers(-(2**24), 2**24, lanes).astype(np.int32)
        words, x = rng.integers(0, 256, (lanes, 4), np.uint8), rng.integers(-128, 128, 4, np.int8)
        assert np.array_equal(run(acc, words, x), reference(acc, words, x))


@pytest.mark.parametrize(("path", "features"), PATHS)
def test_a_sum_wraps_and_does_not_saturate(path, features):
    run = compiled(path, 16, features)
    acc, words = np.full(16, -(2**31) + 5, np.int32), np.full((16, 4), 255, np.uint8)
    for x in (np.full(4, -128, np.int8), np.full(4, 127, np.int8)):
        assert np.array_equal(run(acc, words, x), reference(acc, words, x))


@pytest.mark.parametrize(("path", "features"), PATHS)
def test_each_byte_meets_its_own(path, features):
    run = compiled(path, 16, features)
    for place in range(4):
        words, x = np.zeros((16, 4), np.uint8), np.zeros(4, np.int8)
        words[:, place], x[place] = np.arange(200, 216), -3
        assert run(np.zeros(16, np.int32), words, x).tolist() == [-3 * w for w in range(200, 216)]


def test_paths_follow_the_features():
    assert dot.available(frozenset()) == ("generic",)
    assert dot.available(frozenset({"neon"})) == ("generic",)
    assert dot.available(frozenset({"sse2", "avx2"})) == ("generic", "madd")
    assert dot.available(frozenset({"sse2", "avxvnni"})) == ("generic", "madd", "vnni")
    assert set(dot.available(HERE)) <= set(dot.PATHS)


@pytest.mark.parametrize(("path", "features"), [p for p in PATHS if dot.takes_pairs(p.values[0])])
def test_pairs_have_sixteen_bits(path, features):
    run, rng = compiled(path, 16, features), np.random.default_rng(0)
    zero = np.zeros(16, np.int32)
    for weight, activation in itertools.product((0, 1, 127, 128, 255), (-(2**15), -16256, 16256, 2**15 - 1)):
        words, x = np.full((16, 4), weight, np.uint8), np.full(4, activation, np.int16)
        assert np.array_equal(run(zero, words, x), reference(zero, words, x)), (weight, activation)
    for _ in range(20):
        words, x = rng.integers(0, 256, (16, 4), np.uint8), rng.integers(-16256, 16257, 4, np.int16)
        assert np.array_equal(run(zero, words, x), reference(zero, words, x))
