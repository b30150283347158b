"""RoPE's frequencies and the ways of stretching them, against numbers worked out from their papers."""

import math
from pathlib import Path

import numpy as np
import pytest

from model import weights
from model.config import ModelConfig
from model.errors import ModelError
from model.gguf_file import open_gguf
from model.layer_plan import plan
from model.rope import Scaling, rotation

MODELS = Path(__file__).resolve().parent.parent / "fixtures" / "models"


def test_angles_are_computed_in_float64() -> None:
    table = rotation(1e6, 128, None).table(np.arange(40960))
    assert table.shape == (40960, 128) and table.dtype == np.float32
    assert table[40959, 0] == np.float32(np.cos(40959.0)) and table[40959, 64] == np.float32(np.sin(40959.0))


def test_linear_scaling_is_positions_divided() -> None:
    plain, scaled = rotation(1e4, 32, None), rotation(1e4, 32, Scaling("linear", 4.0))
    np.testing.assert_array_equal(scaled.table([4 * 7, 4 * 100]), plain.table([7, 100]))


def test_the_file_s_divisors() -> None:
    divided = rotation(1e4, 8, None, np.array([1, 2, 4, 8], np.float32)).frequencies
    np.testing.assert_allclose(divided, [1, 0.1 / 2, 0.01 / 4, 0.001 / 8])


def test_yarn_keeps_what_turns_fast_and_divides_what_turns_slowly() -> None:
    """Pair i of 64 turns 4096 / 2π · 10000^(-i/64) times in 4096 positions: 32 times at i = 20.95, once at 45.03."""
    made = rotation(1e4, 128, Scaling("yarn", 8.0, 4096, attention_factor=1.25))
    kept = made.frequencies * 1e4 ** (np.arange(64) / 64)
    np.testing.assert_allclose(kept[:21], 1)
    np.testing.assert_allclose(kept[46:], 1 / 8)
    np.testing.assert_allclose(kept[33], 1 - 13 / 26 + 13 / 26 / 8)  # halfway between pairs 20 and 46
    assert made.table([0])[0].tolist() == [1.25] * 64 + [0.0] * 64
    assert math.isclose(np.hypot(*made.table([977])[0].reshape(2, 64)[:, 5]), 1.25, rel_tol=1e-6)


def test_yarn_may_begin_and_end_between_pairs() -> None:
    """As gpt-oss has it: the ramp goes from 20.94 to 45.03 itself."""
    made = rotation(1e4, 128, Scaling("yarn", 8.0, 4096, whole=False))
    kept = made.frequencies * 1e4 ** (np.arange(64) / 64)
    first, last = (64 * math.log(4096 / (turns * 2 * math.pi), 1e4) for turns in (32, 1))
    assert (round(first, 2), round(last, 2)) == (20.94, 45.03)
    slow = (33 - first) / (last - first)
    np.testing.assert_allclose(kept[33], 1 - slow + slow / 8)
    np.testing.assert_allclose(kept[[20, 46]], [1, 1 / 8])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("original", [1, 8])
def test_yarn_over_a_tiny_context_is_finite(original: int, whole: bool) -> None:
    assert np.isfinite(rotation(1.5, 4, Scaling("yarn", 4.0, original, whole=whole)).table(np.arange(5))).all()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_divisor_that_is_no_positive_number(value: float, tmp_path: Path) -> None:
    data, path = bytearray((MODELS / "llama-llama3.gguf").read_bytes()), tmp_path / "damaged.gguf"
    at = open_gguf(MODELS / "llama-llama3.gguf").tensors["rope_freqs.weight"].offset
    data[at + 8 : at + 12] = np.float32(value).tobytes()
    path.write_bytes(data)
    file = open_gguf(path)
    (rope,) = plan(ModelConfig.from_gguf(file)).ropes
    with pytest.raises(ModelError, match=r"'rope_freqs.weight' divides frequencies by numbers that are not positive"):
        weights.rope_rotation(file, rope, 16)
