"""The GPU's prefill against the judge, on CPU tensors: the same arithmetic and types, with torch expanding the weights.

Activations and weights are rounded to float16 for each product (bfloat16 for BF16): measured 0.001 and 0.005 of the
logits' norm off the reference, 0.003 and 0.01 where a K-norm weight of 96.5 stands in front of the softmax.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_samples import by_norm
from some_formats import ALL_TRAITS

pytest.importorskip("triton")

from kernel_templates import formats, registry
from kernel_templates.device import Device
from model.config import ModelConfig
from model.cuda import prefill
from model.cuda.load import Loaded, load
from model.gguf_file import open_gguf
from model.problems import head_problem, layer_at
from model.reference import reference_logits

H100 = Device("cuda", "H100", "9.0", 132, 80 << 30)
BOUNDS = by_norm(5e-3, 1e-2)
MODELS = [(shape, quant) for shape in BOUNDS for quant in ALL_TRAITS]


def loaded(path: Path, capacity: int = 64) -> tuple[Loaded, Callable[[torch.Tensor], torch.Tensor]]:
    """The model on the CPU, and the head over hidden states."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)

    def default(problem):
        return registry.cuda_space(problem, H100).default

    seen: list[tuple[int, int]] = []
    model = load(
        file, config, capacity, lambda i: default(layer_at(config, file, i, 256)), default(head_problem(config, file)),
        torch.device("cpu"), lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    assert seen == [(i + 1, config.layers + 1) for i in range(config.layers + 1)]

    def head(hidden: torch.Tensor) -> torch.Tensor:
        name = "token_embd.weight" if config.tied else "output.weight"
        matrix = formats.get(file.tensors[name].format_name).dequantize(torch.from_numpy(file.raw(name).copy()))
        normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + config.norm_eps) * model.output_norm
        logits, cap = normed @ matrix.T, config.final_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    return model, head


def tokens_of(count: int, vocab: int = 512) -> list[int]:
    return np.random.default_rng(0).integers(0, vocab, count).tolist()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("shape", "quant"), MODELS)
def test_agrees_with_the_reference(
    made: Callable[[str, str], Path], shape: str, quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokens = made(shape, quant), tokens_of(41)
    wanted = reference_logits(path, tokens)
    model, head = loaded(path)
    step = prefill.CudaPrefill(model, None)
    whole = head(step.run(tokens, 0, every=True))
    monkeypatch.setattr(prefill, "CHUNK", 16)  # two whole chunks and a part
    hidden = step.run(tokens, 0, every=True)
    chunks = head(hidden)
    print(f"{shape} {quant}: {distance(whole, wanted):.2g}")
    bound = BOUNDS[shape] * (2 if quant == "BF16" else 1)
    assert distance(whole, wanted) < bound and distance(chunks, wanted) < bound
    assert torch.equal(step.run(tokens, 0), hidden[-1:])


def test_a_made_up_architecture_agrees_with_the_reference(made_up: Path) -> None:
    tokens = tokens_of(41)
    model, head = loaded(made_up)
    found = head(prefill.CudaPrefill(model, None).run(tokens, 0, every=True))
    off = distance(found, reference_logits(made_up, tokens))
    print(f"{model.config.architecture.name}: {off:.2g}")
    assert off < (1e-2 if model.config.architecture.qk_norm else 5e-3)


def test_goes_on_where_the_cache_ends(tiny_qwen3: Path) -> None:
    tokens = tokens_of(50)
    model, head = loaded(tiny_qwen3)
    step = prefill.CudaPrefill(model, None)
    wanted = head(step.run(tokens, 0, every=True))
    for layer in model.layers:
        layer.buffers["keys"].fill_(7.0), layer.buffers["values"].fill_(7.0)  # what an earlier conversation left
    step.run(tokens[:20], 0)
    found = head(step.run(tokens[20:], 20, every=True))
    assert distance(found, wanted[20:]) < BOUNDS["tiny-qwen3"]


def test_huge_activations_stay_finite(tiny_model: Path) -> None:
    """Products of float16 end at 65504; rows are scaled so that none gets there."""
    model, _ = loaded(tiny_model)
    step = prefill.CudaPrefill(model, None)
    x = torch.randn(3, 64) * torch.tensor([1e6, 0.0, 1e-6])[:, None]
    y, scale = step._product(x, model.layers[0].packed["out"])
    wanted = x @ torch.cat([prefill.expand.weights.unpack(p) for p in model.layers[0].packed["out"]]).T
    assert torch.allclose(y * scale, wanted, rtol=0, atol=float(wanted.abs().max()) * 2e-3)
    assert distance((y * scale)[2], wanted[2]) < 2e-3 and not (y * scale)[1].any()
