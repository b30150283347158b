"""GPU kernels of formats that are not declared yet, in Triton's interpreter: what follows from a layout alone."""

import coming_formats
import numpy as np
import pytest
import torch
from coming_formats import any_bytes
from test_interp_operations import relative_error, space, tolerance
from test_interp_sample_token import buffers_for, run

from kernel_templates import random_inputs
from kernel_templates.cuda import expand, weights
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.sample_token import cuda

fmt = coming_formats.fmt


@pytest.mark.parametrize("activation", ["int16", "int8"])
def test_products(fmt, activation):
    key = f"matvec:rows=32,cols={max(96, fmt.block)},format={fmt.name},activation={activation}"
    assert relative_error(key, space(key).default) <= (2e-5 if activation == "int16" else tolerance(key))


def test_prompts(fmt):
    weight = random_inputs.weight(5, 512, fmt.name, np.random.default_rng(0))
    out = torch.full((5 * 512 + 8,), float("nan"), dtype=torch.float16)
    expand.launch(weights.pack([weight], "cpu"), out).run(INTERPRETED)
    wanted = fmt.dequantize(weight.raw).half().float()
    # A sum after a product, which a GPU need not round in between: half a float32 step, seldom a float16 one.
    difference = (out[:-8].view(5, 512).float() - wanted).abs()
    assert (difference <= wanted.abs() * 2**-10 * (fmt.layout.minimum is not None)).all()
    assert out[-8:].isnan().all()


def test_the_embedding(fmt):
    embedding = Embedding(any_bytes(fmt, 11, 512), fmt.name, 512)
    buffers = buffers_for(torch.randn(11), 512)
    for token in (0, 10):
        buffers["token"].fill_(token)
        run(cuda.launches_embed(buffers, embedding, torch.rand(512) + 0.5, "float"))
        assert torch.equal(buffers["x"].values, fmt.dequantize(embedding.raw[token]))
