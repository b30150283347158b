"""The embedding lookup on the CPU gives what the format's own dequantize gives, to the bit."""

import numpy as np
import pytest
import torch
from some_formats import any_bytes

from kernel_templates import memory
from kernel_templates.cpu import embedding
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.formats import FORMATS


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_row_is_dequantized_to_the_bit(name):
    cols = max(96, 3 * FORMATS[name].block)
    raw = any_bytes(FORMATS[name], 7, cols)
    token, out = np.zeros(1, np.int64), memory.zeros((cols,), np.float32)
    with ThreadPool(2) as team:
        graph = Graph(team, [embedding.bind(embedding.compile(name, cols), raw.numpy(), token, out)])
        for row in (0, 6, 3):
            token[0] = row
            graph.replay()
            assert torch.equal(torch.from_numpy(out), FORMATS[name].dequantize(raw[row]))
