"""Quantize, dequantize and repack, judged bit for bit."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from format_samples import (
    COLS,
    agreed,
    gguf_dequantize,
    gguf_quantize,
    hard_weights,
    recorded_bytes,
    recorded_weights,
    same_bits,
    with_finite_scales,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_templates.formats import Format, codec

ON_FIXTURE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
finite_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


def some_bytes(draw: st.DataObject, fmt: Format) -> np.ndarray:
    rows, blocks = draw.draw(st.integers(1, 3)), draw.draw(st.integers(1, 4))
    return draw.draw(hnp.arrays(np.uint8, (rows, blocks * fmt.block_bytes)))


@pytest.mark.parametrize("sample", recorded_weights())
def test_quantize_equals_ggml(fmt, sample):
    x, expected = recorded_weights()[sample], recorded_bytes(fmt.name)[sample]
    assert same_bits(fmt.quantize(torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize("sample", hard_weights())
def test_quantize_equals_gguf(gguf_fmt, sample):
    x = agreed(hard_weights()[sample])
    assert same_bits(gguf_fmt.quantize(torch.from_numpy(x)).numpy(), gguf_quantize(gguf_fmt, x))


@ON_FIXTURE
@given(x=hnp.arrays(np.float32, (1, COLS), elements=finite_floats))
def test_quantize_equals_gguf_on_arbitrary_weights(gguf_fmt, x):
    x = agreed(x)
    assert same_bits(gguf_fmt.quantize(torch.from_numpy(x)).numpy(), gguf_quantize(gguf_fmt, x))


@ON_FIXTURE
@given(draw=st.data())
def test_dequantize_equals_gguf_on_arbitrary_bytes(fmt, draw):
    data = with_finite_scales(fmt, some_bytes(draw, fmt))
    assert same_bits(fmt.dequantize(torch.from_numpy(data)).numpy(), gguf_dequantize(fmt, data))


def test_dequantize_equals_gguf_on_random_bytes(fmt):
    data = np.random.default_rng(1).integers(0, 256, (64, 32 * fmt.block_bytes), dtype=np.uint8)
    data = with_finite_scales(fmt, data)
    assert same_bits(fmt.dequantize(torch.from_numpy(data)).numpy(), gguf_dequantize(fmt, data))


@ON_FIXTURE
@given(draw=st.data())
def test_fields_lose_nothing(block_fmt, draw):
    data = torch.from_numpy(some_bytes(draw, block_fmt))
    before = data.clone()
    fields = codec.read(block_fmt.blocks(data), block_fmt.layout)
    assert torch.equal(codec.write(fields, block_fmt.layout).flatten(-2), before)
    assert torch.equal(data, before)


@pytest.mark.parametrize("sample", ["normal", "sub-blocks of very different size", "one huge value"])
def test_quantizing_changes_neither_its_input_nor_the_order(fmt, sample):
    x = torch.from_numpy(hard_weights()[sample])
    before = x.clone()
    whole = fmt.quantize(x)
    assert torch.equal(x, before)
    assert torch.equal(whole[7:8], fmt.quantize(x[7:8])), "a row must not depend on its neighbours"
