"""The embedding lookup on the CPU gives what the format's own dequantize gives, to the bit."""

import math

import numpy as np
import pytest
import torch
from some_formats import any_bytes

from kernel_templates import memory, random_inputs
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


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "F16"])
@pytest.mark.parametrize("hidden", [640, 1152])
def test_a_scaled_row_is_rounded_once_more(name, hidden):
    """As Gemma multiplies: in float32, by sqrt(hidden) rounded to float32."""
    raw, scale = random_inputs.weight(3, hidden, name, np.random.default_rng(2)).raw, math.sqrt(hidden)
    token, out = np.ones(1, np.int64), memory.zeros((hidden,), np.float32)
    with ThreadPool(1) as team:
        Graph(team, [embedding.bind(embedding.compile(name, hidden, scale), raw.numpy(), token, out)]).replay()
    assert np.array_equal(out, FORMATS[name].dequantize(raw[1]).numpy() * np.float32(scale))
