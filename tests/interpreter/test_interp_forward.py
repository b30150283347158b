"""Passes over many rows without a GPU: tiny models through every kernel in Triton's interpreter, against the judge.

Activations and expanded weights are rounded to float16 for each product: logits are within 0.001 of the reference's
norm, 0.005 where a K-norm weight of 96.5 stands in front of the softmax.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_samples import TINY, by_norm
from some_formats import ALL_TRAITS
from torch import Tensor

from kernel_templates import formats, random_inputs, registry
from kernel_templates.cuda import library, pages, weights
from kernel_templates.cuda.launch import INTERPRETED, Launch
from kernel_templates.device import Device
from kernel_templates.matmul.problem import GATES, Matmul
from kernel_templates.matmul.space import LIBRARY
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.cuda import delta_states
from model.cuda import forward as passes
from model.cuda.execution import EagerExecutor
from model.cuda.forward import Forward
from model.cuda.load import CudaLayer, cached_heads, load
from model.cuda.page_pool import PageShape
from model.gguf_file import open_gguf
from model.layer_plan import cache_of
from model.problems import head_problem, inputs_problem, layer_at
from model.reference import reference_logits
from model.widths import PassSize, bucket, pass_problems

Made = Callable[[str, str], Path]
H100 = Device("cuda", "H100", "9.0", 132, 80 << 30)
BOUNDS = by_norm(2e-3, 1e-2)
MODELS = [
    ("tiny", "Q4_0"),
    ("tiny-gemma3", "Q4_0"),  # two ropes, a window, post norms, QK-norm
    *(pytest.param("tiny", quant, marks=pytest.mark.slow) for quant in ALL_TRAITS if quant != "Q4_0"),
    *(pytest.param(s, "Q4_0", marks=pytest.mark.slow) for s in TINY if s not in ("tiny", "tiny-gemma3")),
]
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"
GEMMA = FIXTURES / "gemma2.gguf"
GEMMA4 = ["gemma4", "gemma4-per-layer", "gemma4-mixture", "gemma4-mixture-small"]
"""Heads whose size differs by layer, keys as values, a scaled output; inputs of layers, and some that attend over
another's cache; mixtures beside dense networks."""
CAPACITY = 80


def opened(path: Path, capacity: int = CAPACITY, library_only: bool = True) -> Forward:
    """library_only: products that are not what a test is about take most of its time in the interpreter."""
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)

    def default(problem):
        if library_only and problem.op == Matmul.op:
            return LIBRARY
        config = registry.cuda_space(problem, H100).default
        # Splits are attention's own business, and take most of the interpreter's time here.
        return Config({**config, "splits": 1}) if isinstance(problem, PagedAttention) else config

    inputs = inputs_problem(config, file)
    model = load(
        file, config, capacity, lambda i: default(layer_at(config, file, i, 256)), default(head_problem(config, file)),
        inputs and default(inputs), torch.device("cpu"), lambda done, of: None,
    )  # fmt: skip
    return Forward(model, model.pages, default, EagerExecutor(INTERPRETED))


def logits_of(forward: Forward, hidden: Tensor) -> Tensor:
    """The head in float32."""
    model, config = forward.model, forward.model.config
    matrix = torch.cat([weights.unpack(planes) for planes in model.head_packed])
    normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + config.norm_eps) * model.output_norm
    logits, cap = normed @ matrix.T, config.final_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


def tokens_of(count: int, vocab: int = 512, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK", 16)


@pytest.mark.parametrize(("shape", "quant"), MODELS)
def test_agrees_with_the_reference(made: Made, small_chunks: None, shape: str, quant: str) -> None:
    """A whole chunk and a part of one, whose other rows are not used."""
    path, tokens = made(shape, quant), tokens_of(21)
    forward = opened(path, library_only=shape != "tiny")
    hidden = forward.read(tokens, 0, every=True)
    off = distance(logits_of(forward, hidden), reference_logits(path, tokens))
    print(f"{shape} {quant}: {off:.2g}")
    assert off < BOUNDS[shape] and forward.most == 16
    assert not any(
        kept[:, :, len(tokens) :].any() for kept in (c.values for c in forward.model.cache)
    )  # rows that are not used leave it alone


@pytest.mark.slow
def test_a_made_up_architecture_agrees_with_the_reference(made_up: Path) -> None:
    forward, tokens = opened(made_up, library_only=False), tokens_of(21)
    off = distance(logits_of(forward, forward.read(tokens, 0, every=True)), reference_logits(made_up, tokens))
    assert off < (1e-2 if forward.model.config.architecture.qk_norm else 2e-3)


def with_silu(layer: CudaLayer) -> CudaLayer:
    sizes = replace(layer.plan.sizes, gate_function="silu")
    return replace(layer, plan=replace(layer.plan, sizes=sizes))


def test_post_norms_gelu_and_a_scaled_embedding() -> None:
    """And the bound tells gate functions apart."""
    tokens, forward = [7, 90, 41], opened(GEMMA)
    assert forward.model.config.architecture.post_norm and forward.model.config.architecture.scaled_embedding
    wanted = reference_logits(GEMMA, tokens)
    assert distance(logits_of(forward, forward.read(tokens, 0, every=True)), wanted) < 5e-3
    silu = opened(GEMMA)
    silu.model = replace(silu.model, layers=[with_silu(layer) for layer in silu.model.layers])
    assert distance(logits_of(silu, silu.read(tokens, 0, every=True)), wanted) > 1e-2


@pytest.mark.parametrize("library_only", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", GEMMA4)
def test_gemma_4(name: str, library_only: bool) -> None:
    path, tokens = FIXTURES / f"{name}.gguf", [7, 90, 41]
    forward = opened(path, library_only=library_only)
    off = distance(logits_of(forward, forward.read(tokens, 0, every=True)), reference_logits(path, tokens))
    print(f"{name}: {off:.2g}")
    assert off < 5e-3


@pytest.mark.parametrize(("name", "library_only", "norms"), [
    ("qwen35moe-bf16", True, 1),
    pytest.param("qwen35moe", True, 2, marks=pytest.mark.slow),
    pytest.param("qwen35moe", False, 1, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_shared_expert(name: str, library_only: bool, norms: int) -> None:
    """Where its products read another order of columns than the other experts', the norm before them runs twice."""
    path, tokens = FIXTURES / f"{name}.gguf", [7, 90, 41]
    forward = opened(path, library_only=library_only)
    off = distance(logits_of(forward, forward.read(tokens, 0, every=True)), reference_logits(path, tokens))
    print(f"{name}: {off:.2g}")
    assert off < 5e-3
    launched = [launch.name for launch in forward.launches(PassSize(1, 4, 160)) if isinstance(launch, Launch)]
    assert launched.count("ffn_norm") == norms * forward.model.config.layers


def test_goes_on_where_the_cache_ends(tiny_qwen3: Path) -> None:
    """One pass, or two with a pass of few rows behind; what an earlier conversation left is not seen."""
    tokens, forward = tokens_of(11), opened(tiny_qwen3)
    wanted = forward.read(tokens, 0, every=True)
    for kept in (c.values for c in forward.model.cache):
        kept.fill_(7.0)
    forward.read(tokens[:7], 0)
    found = forward.read(tokens[7:], 7)
    assert distance(logits_of(forward, found), logits_of(forward, wanted[-1:])) < 1e-3


def test_the_last_position_of_the_context(tiny_model: Path) -> None:
    """A pass whose rows are more than the context has left, and more than it has."""
    tokens, forward = tokens_of(9), opened(tiny_model, 9)
    assert forward.most == 16
    off = distance(logits_of(forward, forward.read(tokens, 0, every=True)), reference_logits(tiny_model, tokens))
    assert off < 2e-3


def pool(forward: Forward, texts: int, each: int) -> list[pages.PagedCache]:
    """Pages of several texts, in disorder."""
    config = forward.model.config
    shape = PageShape(cached_heads(config))
    memory = torch.zeros(texts * each, shape.elements, dtype=torch.float16)
    table = torch.randperm(texts * each, generator=torch.Generator().manual_seed(0)).view(texts, each)
    made, first = [], 0
    for size, (_, head_dim) in zip(shape.sizes, shape.layers, strict=True):
        made.append(pages.PagedCache(memory, table * shape.elements, first, size // 2, pages.PAGE * head_dim))
        first += size
    return [made[cache_of(config, i)] for i in range(config.layers)]


def over_texts(forward: Forward, texts: int, each: int) -> Forward:
    """With so many pages for each text."""
    states = delta_states.of_layers(forward.model.config.sizes, texts, torch.device("cpu"))
    return forward.over(pool(forward, texts, each), states)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny-qwen3", "tiny-gemma2"])
def test_texts_of_unlike_lengths_in_one_pass(made: Made, shape: str) -> None:
    """Each is read by itself, then all take a step together, one place of four being empty; logits of every row."""
    path = made(shape, "Q4_0")
    alone = opened(path)
    forward, lengths = over_texts(alone, 4, 2), {0: 2, 1: 63, 3: 5}
    texts = {text: tokens_of(length + 1, seed=text) for text, length in lengths.items()}
    for text, tokens in texts.items():
        forward.read(tokens[:-1], 0, text)
    size = PassSize(4, 1, forward.bound(63), head=True)
    rows = [(texts[t][-1], lengths[t], t) if t in texts else (0, -1, 0) for t in range(4)]
    tokens, positions, numbers = zip(*rows, strict=True)
    forward.start(size, tokens, positions, numbers)
    found = forward.logits(4)
    for text, tokens in texts.items():
        off = distance(found[text], reference_logits(path, tokens)[-1])
        assert off < BOUNDS[shape], (text, off)
    assert found.isfinite().all() and not any(kept.values.any() for kept in alone.model.cache)


def test_several_tokens_of_several_texts(tiny_model: Path) -> None:
    check_several_tokens_of_several_texts(tiny_model, 2e-3)


ONE_MIXTURE = [  # gemma4 and the small mixture have between them what the other has, which takes longest of all
    *(name for name in GEMMA4 if name != "gemma4-mixture"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma4-mixture", "qwen35moe-bf16")),
]


@pytest.mark.parametrize("name", ONE_MIXTURE)
def test_several_tokens_of_several_texts_of_their_own(name: str) -> None:
    """Each row gets the input of its own token, and shared caches, or states, are those of its text."""
    check_several_tokens_of_several_texts(FIXTURES / f"{name}.gguf", 5e-3)


def check_several_tokens_of_several_texts(path: Path, bound: float) -> None:
    forward, texts = over_texts(opened(path), 2, 2), [tokens_of(4, seed=1), tokens_of(6, seed=2)]
    for text, tokens in enumerate(texts):
        forward.read(tokens[:-2], 0, text)
    positions = [len(tokens) - back for tokens in texts for back in (2, 1)]
    forward.start(PassSize(2, 2, 160, head=True), [t for tokens in texts for t in tokens[-2:]], positions, [0, 0, 1, 1])
    wanted = torch.cat([reference_logits(path, tokens)[-2:] for tokens in texts])
    assert distance(forward.logits(4), wanted) < bound


@pytest.mark.parametrize(("rows", "kernels"), [(8, ["attn_norm"]), (64, ["attn_norm", "ffn_norm"] * 2)])
def test_of_few_rows_only_the_first_norm_has_a_kernel(tiny_qwen3: Path, rows: int, kernels: list[str]) -> None:
    made = opened(tiny_qwen3, library_only=False).launches(PassSize(1, rows, 160, head=rows == 8))
    assert [launch.name for launch in made if launch.name.endswith("_norm")][:4] == kernels


@pytest.mark.parametrize(("shape", "quant"), [("tiny-qwen3", "Q4_0"), ("tiny", "Q4_K_M"), ("tiny-qwen35", "Q4_0")])
def test_norms_without_kernels_give_what_those_with_kernels_do(made: Made, shape: str, quant: str) -> None:
    """Logits of a pass that goes through the templates' own products; the library's have every norm in a kernel."""
    tokens, size = tokens_of(7), PassSize(1, 8, 160, head=True)
    found = []
    for library_only in (True, False):
        forward = opened(made(shape, quant), library_only=library_only)
        forward.start(size, tokens, range(7), [0] * 7)
        found.append(forward.logits(8)[:7].clone())
    assert distance(found[1], found[0]) < BOUNDS[shape]


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 3, 16, 17, 1025, 2048)] == [2, 2, 4, 16, 32, 2048, 2048]


@pytest.mark.parametrize("buffers", [1, 2])
def test_products_in_pieces(buffers: int) -> None:
    """A buffer of 37 rows takes 32 at a time, of one matrix after the other, whatever their formats."""
    formed = [
        random_inputs.weight(rows, 64, name, np.random.default_rng(rows)) for rows, name in ((72, "Q4_0"), (20, "BF16"))
    ]
    parts = [weights.pack([weight], "cpu") for weight in formed]
    x, y = torch.randn(3, 64).half(), torch.full((3, 92), torch.nan)
    memory = [torch.full((37 * 64,), torch.nan, dtype=torch.float16) for _ in range(buffers)]
    made = list(library.product("y", parts, x, y, memory, 1))
    assert [launch.matrix.shape[0] for launch in made if isinstance(launch, library.Multiply)] == [32, 32, 8, 20]
    for launch in made:
        launch.run(INTERPRETED)
    wanted = torch.cat([formats.get(w.format).dequantize(w.raw) for w in formed]).half().float()
    assert torch.allclose(y, x.float() @ wanted.T, rtol=1e-5, atol=1e-5)


def test_gate_functions_are_those_of_problems() -> None:
    """What the launch takes for not being GELU is SiLU."""
    assert set(GATES) == {"", "silu", "gelu"}


@pytest.mark.parametrize(
    "shape",
    [
        "tiny", "tiny-gemma3", "tiny-gemma4", "tiny-gemma4-mixture", "tiny-phi3", "tiny-qwen3moe", "tiny-qwen35moe",
        "tiny-gpt-oss",
    ],
)  # fmt: skip
@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M"])
def test_a_pass_runs_the_problems_that_a_tuner_searches(made: Made, shape: str, quant: str) -> None:
    """`widths` names them from the file, a pass from what was packed: nothing is run here."""
    path = made(shape, quant)
    forward, file = opened(path), open_gguf(path)
    for size in (PassSize(1, 64, 160), PassSize(4, 1, 160, head=True)):
        asked: dict[Problem, int] = {}

        def counted(problem: Problem, choose=forward.configs, asked=asked) -> Config:
            asked[problem] = 1
            return choose(problem)

        forward.configs = counted
        forward.launches(size)
        assert set(asked) == set(pass_problems(forward.model.config, file, [size]))
