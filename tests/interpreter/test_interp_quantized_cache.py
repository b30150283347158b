"""A KV cache of 8 bits in Triton's interpreter: every kernel that writes it and reads it, and the engine with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_interp_engine import GPU, distance, tokens_of
from test_interp_operations import relative_error, tolerance

from kernel_templates import float64, registry
from kernel_templates.attention import cache, space
from kernel_templates.cuda import pages
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.rows import append
from kernel_templates.layer.problem import Layer
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.norm_qkv_rope.qk_norm_rope_append import finish_launch
from kernel_templates.space import Config
from model import problems
from model.config import ModelConfig
from model.cuda.execution import EagerExecutor
from model.cuda.opening import Opening
from model.engine import Model
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.runner import Settings
from model.sampling import Sampler
from model.tokenizer import Tokenizer

Made = Callable[[str, str], Path]
EPS = 1e-6
BOUND = {"tiny": 1.3e-2, "tiny-qwen3": 4e-2, "tiny-qwen35": 1e-2}
"""Of logits against the float32 reference: what eight bits cost tiny models, whose heads have 16 and 32 elements."""

ATTENTION = "attention:heads={},kv_heads={},head_dim={},context={}{},cache=q8_0"


def decoding(tile: int, warps: int, splits: int, heads: int, stages: int = 1, algorithm: str = space.THREADS) -> Config:
    combine = "kernel" if splits > 1 and algorithm != space.THREADS else "last"
    sizes = {"tile": tile, "warps": warps, "splits": splits, "heads": heads, "stages": stages}
    return Config({**sizes, "algorithm": algorithm, "combine": combine, "prefetch": 0, "early": 1, "at_once": 1})


DECODING = {
    "threads, all at once": ((4, 2, 64, 70, ""), decoding(128, 4, 1, 1)),
    "threads, tile by tile": ((4, 2, 64, 200, ""), decoding(64, 4, 2, 2)),
    "threads, a window, a cap and sinks": ((8, 2, 96, 150, ",window=100,softcap=30.0,sinks=1"), decoding(64, 4, 2, 4)),
    "registers": ((4, 2, 64, 130, ""), decoding(32, 2, 2, 2, 1, space.REGISTERS)),
    "registers, 32 positions a warp": ((8, 1, 128, 70, ""), decoding(64, 2, 2, 8, 1, space.REGISTERS)),
    "registers, 256 elements with gates": (
        (8, 2, 256, 40, ",output_gate=1"),
        decoding(32, 2, 1, 4, 1, space.REGISTERS),
    ),
    "registers, a window and sinks": ((6, 2, 96, 150, ",window=70,sinks=1"), decoding(32, 2, 4, 3, 1, space.REGISTERS)),
}


@pytest.mark.parametrize("name", DECODING)
def test_decoding(name: str) -> None:
    shape, config = DECODING[name]
    key = ATTENTION.format(*shape)
    assert relative_error(key, config) < tolerance(key)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_decoding_of_any_shape(data: st.DataObject) -> None:
    group, kv_heads = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 2))
    dim, context = data.draw(st.sampled_from([64, 80, 128, 256])), data.draw(st.integers(1, 140))
    traits = data.draw(st.sampled_from(["", ",window=33", ",sinks=1", ",softcap=20.0", ",output_gate=1"]))
    key = ATTENTION.format(group * kv_heads, kv_heads, dim, context, traits)
    warps = data.draw(st.sampled_from([1, 2, 4]))
    config = decoding(16 * warps, warps, data.draw(st.sampled_from([1, 2, 8])), group, 1, space.REGISTERS)
    assert relative_error(key, config, data.draw(st.integers(0, 99))) < tolerance(key)


PAGED = "paged_attention:sequences={},tokens={},heads=4,kv_heads=2,head_dim=64,context={}{},cache=q8_0"


@pytest.mark.parametrize(
    "shape", [(1, 16, 90, ""), (3, 1, 130, ""), (2, 4, 90, ",window=40,sinks=1"), (1, 20, 70, ",softcap=20.0")]
)
def test_rows_over_pages(shape: tuple[int, int, int, str]) -> None:
    key = PAGED.format(*shape)
    default = registry.cuda_space(registry.parse_problem(key), GPU).default
    assert relative_error(key, default) < tolerance(key)


def turned(x: np.ndarray, norm: np.ndarray, rope: np.ndarray) -> np.ndarray:
    half = len(rope) // 2
    return float64.rope(float64.rms_norm(x, norm, EPS), rope[:half], rope[half:])


def check_stored(whole: torch.Tensor, scale: torch.Tensor, wanted: np.ndarray) -> None:
    """Half a step, or one where float32 came to lie on the other side of a half."""
    made = whole.double() * scale.double()[..., None]
    step = np.abs(wanted).max(-1, keepdims=True) / cache.LARGEST
    np.testing.assert_allclose(scale.double()[..., None], step, rtol=1e-5)
    assert (np.abs(made.numpy() - wanted) <= 0.501 * step + 1e-9).all()


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "rope_dim", "v_norm"), [(3, 1, 64, 64, 0), (2, 2, 96, 48, 1)])
def test_a_token_is_appended(heads: int, kv_heads: int, dim: int, rope_dim: int, v_norm: int) -> None:
    """By the kernel behind a layer's projections; nothing else of the cache changes."""
    rng, capacity, position = np.random.default_rng(0), 8, 5
    problem = NormQkvRope(64, heads, kv_heads, dim, rope_dim, 1, "F16", "F16", "F16", v_norm=v_norm)
    raw = rng.standard_normal((heads + 2 * kv_heads, dim))
    norms = np.exp(rng.uniform(-2, 4.5, (2, dim)))
    rope = rng.standard_normal((capacity, rope_dim))
    buffers = {
        "qkv": torch.from_numpy(raw.ravel().astype(np.float32)), "eps": EPS,
        "position": torch.tensor([position], dtype=torch.int32), "rope": torch.from_numpy(rope.astype(np.float32)),
        "q_norm": torch.from_numpy(norms[0].astype(np.float32)),
        "k_norm": torch.from_numpy(norms[1].astype(np.float32)),
        **{n: torch.full((kv_heads, capacity, dim), 7, dtype=torch.int8) for n in ("keys", "values")},
        **{n: torch.full((kv_heads, capacity), torch.nan) for n in ("key_scales", "value_scales")},
    }  # fmt: skip
    finish_launch(problem, buffers).run(INTERPRETED)
    k = turned(raw[heads : heads + kv_heads], norms[1], rope[position])
    v = raw[heads + kv_heads :]
    v = float64.rms_norm(v, np.ones(dim), EPS) if v_norm else v
    for name, wanted in (("key", k), ("value", v)):
        check_stored(buffers[f"{name}s"][:, position], buffers[f"{name}_scales"][:, position], wanted)
        others = [at for at in range(capacity) if at != position]
        assert (buffers[f"{name}s"][:, others] == 7).all() and buffers[f"{name}_scales"][:, others].isnan().all()


def test_what_is_no_number_is_seen() -> None:
    problem = NormQkvRope(64, 1, 1, 64, 64, 0, "F16", "F16", "F16")
    for broken in (torch.nan, torch.inf):
        raw = torch.ones(3 * 64)
        raw[[64 + 3, 128 + 3]] = broken
        made = {n: torch.zeros((1, 1, 64), dtype=torch.int8) for n in ("keys", "values")}
        scales = {n: torch.zeros((1, 1)) for n in ("key_scales", "value_scales")}
        rest = {"qkv": raw, "eps": EPS, "position": torch.zeros(1, dtype=torch.int32), "rope": torch.ones(1, 64)}
        finish_launch(problem, {**rest, **made, **scales}).run(INTERPRETED)
        assert all(scale.isnan().all() for scale in scales.values())


@pytest.mark.parametrize(("dim", "rope_dim"), [(64, 64), (32, 8)])
def test_rows_are_appended(dim: int, rope_dim: int) -> None:
    """Of a pass; one row is not used. Positions on both sides of a page's edge."""
    rng, heads, kv_heads = np.random.default_rng(1), 3, 2
    positions, capacity = [63, -1, 64], 128
    raw = rng.standard_normal((3, heads + 2 * kv_heads, dim))
    norms, rope = np.exp(rng.uniform(-2, 4.5, (2, dim))), rng.standard_normal((capacity, rope_dim))
    as_floats = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))  # noqa: E731
    how = append.Heads(heads, kv_heads, dim, as_floats(rope), EPS, norms=(as_floats(norms[0]), as_floats(norms[1])))
    whole, scales = (
        torch.full((2, kv_heads, capacity, dim), 7, dtype=torch.int8),
        torch.full((2, kv_heads, capacity), torch.nan),
    )
    rows = {
        "qkv": as_floats(raw.reshape(3, -1)), "q": torch.full((3, heads, dim), torch.nan, dtype=torch.float16),
        "positions": torch.tensor(positions, dtype=torch.int32), "sequences": torch.zeros(3, dtype=torch.int32),
    }  # fmt: skip
    append.launch(how, rows, pages.in_one_piece([whole], [scales])[0]).run(INTERPRETED)
    for row, position in ((0, 63), (2, 64)):
        check_stored(
            whole[0, :, position],
            scales[0, :, position],
            turned(raw[row, heads : heads + kv_heads], norms[1], rope[position]),
        )
        check_stored(whole[1, :, position], scales[1, :, position], raw[row, heads + kv_heads :])
        np.testing.assert_allclose(
            rows["q"][row].double(), turned(raw[row, :heads], norms[0], rope[position]), rtol=2e-3, atol=2e-3
        )
    others = [at for at in range(capacity) if at not in positions]
    assert (whole[:, :, others] == 7).all() and scales[:, :, others].isnan().all()


def opened(path: Path, form: str, context: int = 100) -> Model:
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)
    runner = Opening(file, config, Settings(context, cache=form), GPU).proved(EagerExecutor(INTERPRETED))
    made = Model(file, config, Tokenizer.from_metadata(file.metadata), runner)
    made.tokenizer.end_tokens = frozenset()
    return made


@pytest.mark.parametrize("shape", ["tiny", *(pytest.param(s, marks=pytest.mark.slow) for s in BOUND if s != "tiny")])
def test_the_engine_s_logits(made: Made, shape: str) -> None:
    """Token by token and in one pass, which keep the same bytes but for integers next to each other."""
    path, tokens = made(shape, "Q4_0"), tokens_of(5)
    wanted, engine = reference_logits(path, tokens).numpy(), opened(path, cache.Q8_0)
    step, whole = engine.logits(tokens, stepwise=True), engine.logits(tokens)
    print(f"{shape}: step {distance(step, wanted):.2g}, prefill {distance(whole, wanted):.2g}")
    assert distance(step, wanted) < BOUND[shape] and distance(whole, wanted) < BOUND[shape]
    assert distance(step[:1], wanted[:1]) > 1e-4, "eight bits are kept"


@pytest.mark.slow
def test_texts_together(made: Made) -> None:
    """Over pages of eight bits each text is what it is alone."""
    engine = opened(made("tiny", "Q4_0"), cache.Q8_0)
    prompts = [tokens_of(4, seed=1), tokens_of(7, seed=2)]
    alone = []
    for prompt in prompts:
        engine.reset()
        alone.append(list(engine.generate_tokens(prompt, 3, Sampler())))
    sequences = engine.runner.open_sequences(2)
    numbers = [sequences.join(prompt, 3, Sampler()) for prompt in prompts]
    together: dict[int, list[int]] = {number: [] for number in numbers}
    for _ in range(3):
        sequences.send()
        for number, token in sequences.receive().items():
            together[number].append(token)
    assert [together[number] for number in numbers] == alone
    assert sequences.cache_bytes > 0


def test_a_layer_takes_what_is_known_of_its_products(made: Made) -> None:
    """From the same layer with a float16 cache; its attention is another, and heads are finished in a kernel."""
    file = open_gguf(made("tiny-qwen3", "Q4_0"))
    config = ModelConfig.from_gguf(file)
    usual, problem = (problems.layer_at(config, file, 0, 160, form) for form in cache.FORMATS)
    assert isinstance(problem, Layer) and usual.key != problem.key and "cache" not in usual.key
    assert "cache=q8_0" in problem.key and problem.qkv_part == usual.qkv_part
    assert registry.cuda_space(problem, GPU).default["finish"] == "kernel"


LAYER = (
    "layer:hidden=64,heads=4,kv_heads=2,head_dim=32,rope_dim=32,qk_norm=1,ffn=32,q_format=Q8_0,k_format=Q8_0,"
    "v_format=Q8_0,out_format=Q8_0,gate_format=Q8_0,up_format=Q8_0,down_format=Q8_0,activation=int16,context=70,cache=q8_0"
)


@pytest.mark.parametrize("seed", range(2))
def test_a_layer(seed: int) -> None:
    key = LAYER
    assert relative_error(key, registry.cuda_space(registry.parse_problem(key), GPU).default, seed) < 2e-4
