"""One declaration suffices: what follows from a layout holds for formats that the product does not declare yet.

They are in the registry while a test runs, as if their file were there.
"""

import os
from importlib.util import find_spec

import coming_formats
import gguf
import numpy as np
import pytest
import torch
from coming_formats import any_bytes
from kernel_harness import Built, widened

from kernel_templates import memory, random_inputs, registry
from kernel_templates.cpu import embedding, expand, tiles
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.cuda import weights
from kernel_templates.device import Device
from kernel_templates.formats import codec
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.operation import Weight

fmt = coming_formats.fmt


@pytest.fixture(scope="module")
def team():
    with ThreadPool(1) as team:
        yield team


def test_it_is_ggml_s(fmt):
    kind, raw = gguf.GGMLQuantizationType[fmt.name], any_bytes(fmt, 64, 512)
    assert fmt.ggml_type == kind and (fmt.block, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    found, wanted = fmt.dequantize(raw).numpy(), gguf.quants.dequantize(raw.numpy(), kind)
    assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32))
    assert torch.equal(codec.write(codec.read(fmt.blocks(raw), fmt.layout), fmt.layout).flatten(-2), raw)


def test_packing_for_a_gpu_loses_nothing(fmt):
    raw = any_bytes(fmt, 37, 512)
    planes = weights.pack([Weight(raw, 512, fmt.name)], "cpu")
    found, wanted = weights.unpack(planes), fmt.dequantize(raw)
    assert torch.equal(found, wanted) and torch.equal(found.signbit(), wanted.signbit())
    assert len(planes.tensors) <= 4 and planes.nbytes == raw.numel() + raw.numel() // fmt.block_bytes * widened(fmt)


def test_prompts_on_the_cpu(fmt, team):
    rows, cols, lanes = 83, 512, 32
    raw = any_bytes(fmt, rows, cols)
    out = memory.empty((cols * tiles.padded(rows, lanes),), np.float32)
    packed = tiles.pack(raw, cols, fmt.name, lanes)
    Graph(team, [expand.bind(expand.compile(fmt.name, cols, lanes, "f32"), packed, out)]).replay()
    assert torch.equal(torch.from_numpy(out).view(cols, -1)[:, :rows].T, fmt.dequantize(raw))
    assert packed.nbytes == tiles.padded(rows, lanes) * (raw.shape[1] + cols // fmt.block * widened(fmt))


def test_the_embedding_on_the_cpu(fmt, team):
    raw, token, out = any_bytes(fmt, 3, 512), np.array([2]), memory.zeros((512,), np.float32)
    Graph(team, [embedding.bind(embedding.compile(fmt.name, 512), raw.numpy(), token, out)]).replay()
    assert torch.equal(torch.from_numpy(out), fmt.dequantize(raw)[2])


@pytest.mark.parametrize(("activation", "limit"), [("int16", 1e-4), ("int8", 1.5e-2)])
def test_products_on_the_cpu(fmt, activation, limit, team):
    assert Built(Head(133, 512, fmt.name, activation)).error(11, team) < limit


@pytest.mark.skipif(find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton")
@pytest.mark.parametrize("capability", [75, 90])
def test_kernels_of_a_gpu_spill_nothing(fmt, capability):
    from kernel_templates.cuda import expand
    from kernel_templates.cuda.crosscompile import cross_compile
    from kernel_templates.cuda.embedding import Embedding
    from kernel_templates.cuda.vector import Vector
    from kernel_templates.sample_token import cuda as sample_token

    problem = Matvec(1024, 2048, fmt.name)
    template, gpu = registry.cuda(problem.op), Device("cuda", "any", "9.0", 132, 80 << 30)
    config = registry.cuda_space(problem, gpu).default
    with random_inputs.shapes_only():
        inputs = registry.get(problem.op).inputs(problem, 0)
    packed = template.pack(problem, config, inputs.weights, "meta")
    made = template.launches(problem, config, packed, template.prepare(problem, inputs, "meta"))
    made.append(expand.launch(packed[0], torch.empty(1024 * 2048, dtype=torch.float16, device="meta")))
    table = Embedding(torch.empty(3, fmt.row_bytes(1024), dtype=torch.uint8, device="meta"), fmt.name, 1024)
    buffers = {"x": Vector.allocate(1024, "meta"), "token": torch.zeros(1, dtype=torch.int32, device="meta")}
    made += sample_token.launches_embed(buffers, table)
    for launch in made:
        code = cross_compile(launch, capability)
        assert code.spills == 0, (launch.name, code.resources)
