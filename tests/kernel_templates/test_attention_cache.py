"""The KV cache in tiles: what is written is read, whatever stretch of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernel_templates.attention import cache


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 200), (63, 65), (64, 128), (130, 131), (100, 100)])
def test_a_stretch_of_the_cache(first, end):
    keys, values = cache.allocate(2, 16, 200)
    k, v = torch.randn(2, 200, 2, 16).half()
    cache.write(keys, values, k, v, 0)
    for found, written in zip(cache.read(keys, values, end, first), (k, v), strict=True):
        assert torch.equal(found, written[first:end].transpose(0, 1).float())


def heads(draw, count=3, head_dim=32):
    """float32 [count, head_dim], of very unlike sizes, some of them zero."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    sizes = torch.tensor(draw(st.lists(st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 900.0, 1e5]), min_size=3, max_size=3)))
    return torch.randn(count, head_dim, generator=rng) * sizes[:, None]


@given(st.data())
def test_eight_bits_are_half_a_step_off(data):
    x = heads(data.draw)
    whole, scale = cache.quantized(x)
    assert whole.dtype == torch.int8 and whole.abs().max() <= cache.LARGEST
    assert torch.equal(whole.abs().amax(-1) == cache.LARGEST, x.abs().amax(-1) > 0), "the largest has all bits"
    off = (whole * scale[..., None] - x).abs()
    assert (off <= 0.5 * scale[..., None] * (1 + 1e-5)).all()


@given(st.data())
def test_what_is_stored_stays_when_it_is_stored_again(data):
    """Its integers; its scale but for an ulp."""
    once = cache.stored(heads(data.draw), cache.Q8_0)
    again, scale = cache.quantized(once)
    assert torch.equal(again, cache.quantized(cache.stored(once, cache.Q8_0))[0])
    torch.testing.assert_close(again * scale[..., None], once, rtol=1e-6, atol=0)


def test_eight_bits_are_read_as_they_are_stored():
    keys, values = cache.allocate(2, 16, 200, cache.Q8_0)
    k, v = torch.randn(2, 200, 2, 16)
    cache.write(keys, values, k, v, 0)
    for found, written in zip(cache.read(keys, values, 150, 3), (k, v), strict=True):
        assert torch.equal(found, cache.stored(written[3:150], cache.Q8_0).transpose(0, 1))
    again = cache.as_stored(keys, values, cache.Q8_0)
    for new, old in zip(again, (keys, values), strict=True):
        torch.testing.assert_close(torch.from_numpy(new), torch.from_numpy(old), rtol=1e-6, atol=0)


def test_bytes_of_a_head():
    """As many as llama.cpp's 34 bytes for 32 elements where a head has 64, fewer beyond."""
    assert cache.head_bytes(128, cache.F16) == 256 and cache.head_bytes(64, cache.Q8_0) == 2 * 34
    assert cache.head_bytes(256, cache.Q8_0) == 260
