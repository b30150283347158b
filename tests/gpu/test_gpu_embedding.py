"""The embedding lookup of every format on a GPU: bit for bit what the format's `dequantize` gives, for any bytes."""

import pytest
import torch
from some_formats import any_bytes

from kernel_templates.cuda import machine
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.vector import Vector
from kernel_templates.formats import FORMATS
from kernel_templates.sample_token import cuda as sample_token

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_row_is_decoded_to_the_bit(name: str) -> None:
    raw, target = any_bytes(FORMATS[name], 11, 2048), machine.target(machine.detect())
    embedding = Embedding(raw.cuda(), name, 2048)
    buffers = {"x": Vector.allocate(2048, "cuda"), "token": torch.zeros(1, dtype=torch.int32, device="cuda")}
    for token in (0, 10, 4):
        buffers["token"].fill_(token)
        for launch in sample_token.launches_embed(buffers, embedding, torch.ones(2048, device="cuda"), "float"):
            launch.run(target)
        assert torch.equal(buffers["x"].values.cpu(), FORMATS[name].dequantize(raw)[token])
