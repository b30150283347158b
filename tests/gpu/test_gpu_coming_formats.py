"""What follows from a layout alone, on a GPU, for formats that the product does not declare yet."""

import coming_formats
import numpy as np
import pytest
import torch
from coming_formats import any_bytes
from test_gpu_operations import Case

from kernel_templates import random_inputs
from kernel_templates.cuda import expand, machine, weights
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import Target
from kernel_templates.cuda.vector import Vector
from kernel_templates.sample_token import cuda as sample_token

pytestmark = pytest.mark.gpu

fmt = coming_formats.fmt


@pytest.mark.parametrize("activation", ["int16", "int8"])
@pytest.mark.parametrize("problem", ["matvec:rows=576,cols=1536", "head:vocab=5003,hidden=1024"])
def test_products(fmt, problem: str, activation: str) -> None:
    case = Case(f"{problem},format={fmt.name},activation={activation}")
    case.check(case.space.default)
    for config in case.draw():
        case.check(config)


def test_prompts(fmt) -> None:
    weight = random_inputs.weight(512, 4096, fmt.name, np.random.default_rng(0))
    planes = weights.pack([weight], "cuda")
    out = torch.full((512 * 4096 + 8,), torch.nan, dtype=torch.float16, device="cuda")
    expand.launch(planes, out).run(Target(pdl=False, asm=True))
    wanted, found = fmt.dequantize(weight.raw).half().float(), out[:-8].view(512, 4096).cpu().float()
    assert ((found - wanted).abs() <= wanted.abs() * 2**-10 * planes.traits.minimum).all()  # its sum may be fused
    assert out[-8:].isnan().all()
    assert torch.equal(weights.unpack(planes).cpu(), fmt.dequantize(weight.raw))


def test_the_embedding(fmt) -> None:
    raw, target = any_bytes(fmt, 11, 2048), machine.target(machine.detect())
    embedding = Embedding(raw.cuda(), fmt.name, 2048)
    buffers = {"x": Vector.allocate(2048, "cuda"), "token": torch.zeros(1, dtype=torch.int32, device="cuda")}
    for token in (0, 10, 4):
        buffers["token"].fill_(token)
        for launch in sample_token.launches_embed(buffers, embedding, torch.ones(2048, device="cuda"), "float"):
            launch.run(target)
        assert torch.equal(buffers["x"].values.cpu(), fmt.dequantize(raw)[token])
