"""The KV cache in tiles: what is written is read, whatever stretch of it."""

import pytest
import torch

from kernel_templates.attention import cache


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, 200), (63, 65), (64, 128), (130, 131), (100, 100)])
def test_a_stretch_of_the_cache(first, end):
    keys, values = cache.allocate(2, 16, 200)
    k, v = torch.randn(2, 200, 2, 16).half()
    cache.write(keys, values, k, v, 0)
    for found, written in zip(cache.read(keys, values, end, first), (k, v), strict=True):
        assert torch.equal(found, written[first:end].transpose(0, 1).float())
