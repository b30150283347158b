"""The end of a token, compiled for GPUs that are not here: it compiles, fits in registers, loads wide, waits once."""

import os

import pytest
import torch
from compiled_once import cross_compile
from some_formats import few, two

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels do not compile", allow_module_level=True)

from kernel_templates import formats
from kernel_templates.cuda.crosscompile import Compiled
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.vector import Vector
from kernel_templates.sample_token import cuda, cuda_rows

CAPABILITIES = (75, 80, 90, 100)


def chain(name: str, hidden: int, partials: int) -> tuple[dict, Embedding]:
    vocab = 151_936
    table = torch.empty(3, formats.get(name).row_bytes(hidden), dtype=torch.uint8)
    ints = torch.zeros(1, dtype=torch.int32)
    buffers = {
        "x": Vector.allocate(hidden, "cpu"),
        "logits": torch.empty(vocab),
        "best_value": torch.empty(partials),
        "best_id": torch.empty(partials, dtype=torch.int32),
        "position": ints,
        "token": ints.clone(),
        "history": torch.empty(4096, dtype=torch.int32),
        "status": ints.clone(),
    }
    return buffers, Embedding(table, name, hidden)


def fits(made: Compiled, capability: int) -> None:
    assert made.spills == 0
    assert made.ptx.count("griddepcontrol.wait") == (1 if capability >= 90 else 0)
    assert made.ptx.count("griddepcontrol.launch_dependents") == (1 if capability >= 90 else 0)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("name", "hidden", "partials"), [("Q6_K", 1024, 18_992), ("Q4_0", 4096, 2374), ("F32", 576, 2374)]
)
def test_greedy(name, hidden, partials, capability):
    buffers, embedding = chain(name, hidden, partials)
    (launch,) = cuda.launches_greedy(buffers, embedding, torch.ones(hidden))
    made = cross_compile(launch, capability)
    fits(made, capability)
    chunks = -(-partials // cuda.CHUNK)
    # Values and ids: 8 of each a thread and chunk, 4 a load; what is left over of the last chunk included.
    assert made.ptx.count("ld.global.v4") >= 4 * chunks


@pytest.mark.parametrize("name", few())
def test_every_embedding(name):
    embedded(name, "int16")


@pytest.mark.parametrize("activation", ["int8", "float"])
@pytest.mark.parametrize("name", two())
def test_the_other_activations(name, activation):
    embedded(name, activation)


def embedded(name, activation):
    buffers, embedding = chain(name, 16_384, 7)
    (launch,) = cuda.launches_embed(buffers, embedding, torch.ones(16_384), activation)
    fits(cross_compile(launch, 90), 90)


@pytest.mark.parametrize("capability", [75, 90])
def test_a_scaled_embedding(capability):
    buffers, embedding = chain("Q8_0", 640, 1024)
    scaled = Embedding(embedding.raw, "Q8_0", 640, 640**0.5)
    for launches in (cuda.launches_embed, cuda.launches_greedy):
        (launch,) = launches(buffers, scaled, torch.ones(640))
        fits(cross_compile(launch, capability), capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_sampling(capability):
    buffers, embedding = chain("Q8_0", 576, 18_992)
    launches = cuda.launches_sampling(buffers, embedding, cuda.Scratch.allocate(151_936, "cpu"))
    assert [launch.name for launch in launches] == ["sample"] * 6 + ["pick"]
    for launch in launches:
        made = cross_compile(launch, capability)
        fits(made, capability)
        if launch.name == "sample":
            assert "ATOM." not in made.sass  # additions whose result nobody waits for


ROWS_FAST = ((151_936, 75), (151_936, 90), (49_152, 90))
ROWS = [
    pytest.param(vocab, capability, marks=[] if (vocab, capability) in ROWS_FAST else [pytest.mark.slow])
    for vocab in (151_936, 49_152)
    for capability in CAPABILITIES
]


@pytest.mark.parametrize(("vocab", "capability"), ROWS)
def test_rows(vocab, capability):
    rows = 32
    scratch, ints = cuda_rows.RowScratch.allocate(rows, vocab, "cpu"), torch.zeros(rows, dtype=torch.int32)
    logits, history = torch.empty(rows, vocab), torch.zeros(8, rows, 2, dtype=torch.int32)
    launches = cuda_rows.launches_sampling(rows, logits, ints, scratch)
    launches += cuda_rows.launches_advance(rows, scratch, ints.clone(), ints, history, ints.clone()[:1])
    assert [launch.name for launch in launches] == ["argmax", *["sample"] * 6, "choose", "advance"]
    for launch in launches:
        made = cross_compile(launch, capability)
        fits(made, capability)
        if launch.name in ("argmax", "sample"):
            assert made.ptx.count("ld.global.v4") >= 2  # 8 logits a thread
        if launch.name == "sample":
            assert "ATOM." not in made.sass
