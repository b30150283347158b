"""Which problems passes over many tokens have, and that every pass of an engine finds something tuned near it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.commands import options
from kernel_templates import registry
from kernel_templates.matmul.problem import Matmul
from kernel_templates.paged_attention.problem import PagedAttention
from model import widths
from model.config import ModelConfig
from model.gguf_file import GGUFFile, open_gguf
from model.widths import PassSize, every_size, head_product, layer_products, pass_problems, tuned_sizes, width_problems
from tuning_db import keys

Opened = tuple[ModelConfig, GGUFFile]


@pytest.fixture
def opened(made: Callable[[str, str], Path]) -> Callable[[str, str], Opened]:
    def open_model(shape: str, quant: str) -> Opened:
        file = open_gguf(made(shape, quant))
        return ModelConfig.from_gguf(file), file

    return open_model


def test_the_command_line_knows_the_widths_there_are() -> None:
    assert options.WIDTHS == widths.WIDTHS and set(widths.USUAL) < set(widths.WIDTHS)


def test_matrices_of_one_format_are_one_product(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    qkv, out, gate_up, down = layer_products(config, file, 0)
    c, s = config, config.layer(0)
    assert (qkv.rows, qkv.cols) == ((s.heads + 2 * s.kv_heads) * s.head_dim, c.hidden)
    assert (out.rows, out.cols) == (c.hidden, s.heads * s.head_dim)
    assert (gate_up.rows, gate_up.cols, gate_up.gate) == (2 * s.ffn, c.hidden, "silu")
    assert (down.rows, down.cols) == (c.hidden, s.ffn)
    assert gate_up.over(64) == Matmul(2 * s.ffn, c.hidden, "Q4_0", 64, gate="silu")
    on_cpu = layer_products(config, file, 0, "cpu")
    assert [p.name for p in on_cpu] == ["qkv", "out", "gate", "up", "down"] and not any(p.gate for p in on_cpu)
    head = head_product(config, file)
    assert (head.rows, head.cols) == (c.vocab, c.hidden)


def test_a_matrix_of_another_format_is_a_product_of_its_own(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_K_M")  # whose values are in Q6_K in some layers
    mixed = [layer_products(config, file, i) for i in range(config.layers)]
    split = [products for products in mixed if len([p for p in products if p.name == "qkv"]) == 2]
    assert split and all([p.matrices for p in products[:2]] == [("q", "k"), ("v",)] for products in split)
    for products in mixed:
        assert sum(p.rows * p.cols for p in products) == sum(
            t.shape[0] * t.shape[1] for t in widths.layer_plan.layer(config, 0).matrices.values()
        )
        assert {m for p in products for m in p.matrices} == {"q", "k", "v", "out", "gate", "up", "down"}


def test_a_prompt_s_problems(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    problems = width_problems(config, file, 4096, ["prompt"])
    assert {p.rows_at_once for p in problems} == {16, 64, 256, 2048}
    head = head_product(config, file)
    assert not any(head.over(p.rows_at_once) == p for p in problems), "it ends with one token's head"
    attention = [p for p in problems if isinstance(p, PagedAttention)]
    assert [(p.tokens, p.context) for p in attention] == [(16, 160), (64, 160), (256, 640), (2048, 2560)]
    assert all(problems[p] == config.layers for p in attention)
    products = sum(count for p, count in problems.items() if isinstance(p, Matmul) and p.tokens == 64)
    assert products == 4 * config.layers, "two may be of one shape, which is one problem then"
    short = width_problems(config, file, 100, ["prompt"])
    assert {p.rows_at_once for p in short} == {16, 64}


def test_several_texts_have_the_head_too(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    problems = width_problems(config, file, 4096, ["batch"], "cpu")
    assert {p.rows_at_once for p in problems} == {2, 4, 8, 16, 32}
    head = [p for p in problems if isinstance(p, Matmul) and p.rows == config.vocab]
    assert len(head) == 5 and all(problems[p] == 1 for p in head)
    products = [p for p in problems if isinstance(p, Matmul) and p not in head]
    assert products and min(problems[p] for p in products) == config.layers, "contexts do not count them twice"
    attention = [p for p in width_problems(config, file, 4096, ["batch"]) if isinstance(p, PagedAttention)]
    assert {(p.sequences, p.tokens, p.context) for p in attention} == {
        (texts, 1, context) for texts in (2, 4, 8, 16, 32) for context in (640, 2560)
    }
    assert {p.context for p in width_problems(config, file, 100, ["batch"]) if isinstance(p, PagedAttention)} == {160}


def test_proposals_are_few_tokens_of_one_text_with_the_head(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    problems = width_problems(config, file, 4096, ["speculate"])
    products = {p for p in problems if isinstance(p, Matmul)}
    assert {head_product(config, file).over(tokens) for tokens in (4, 8)} < products
    assert {p.tokens for p in products} == {4, 8}
    attention = [p for p in problems if isinstance(p, PagedAttention)]
    assert [(p.sequences, p.tokens, p.context) for p in attention] == [(1, 4, 640), (1, 8, 640)]
    together = width_problems(config, file, 4096, ["batch"])
    assert products < set(together), "texts decoded together have the same products"
    assert {s.context for s in tuned_sizes("speculate", 100)} == {160}


def test_decoding_is_no_pass(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    assert not width_problems(config, file, 4096, ["decode"])
    both = width_problems(config, file, 4096, ["decode", "prompt", "batch"])
    assert both == {
        **width_problems(config, file, 4096, ["prompt"]), **width_problems(config, file, 4096, ["batch"])
    }  # fmt: skip


def test_a_backend_has_problems_of_its_templates_only(opened) -> None:
    config, file = opened("tiny-qwen3", "Q4_0")
    for backend in ("cpu", "cuda"):
        for problem in width_problems(config, file, 4096, ["prompt", "batch"], backend):
            assert registry.has_template(problem.op, backend), problem.key
    assert {p.op for p in width_problems(config, file, 4096, ["prompt"], "cpu")} == {"matmul"}
    with pytest.raises(ValueError, match="no operation is called 'conv'"):
        registry.has_template("conv", "cpu")


@pytest.mark.parametrize("shape", ["tiny-qwen35", "tiny-qwen35moe"])
def test_a_processor_s_passes_are_products_alone(opened, shape: str) -> None:
    """Of a gated delta net they run what one token runs."""
    config, file = opened(shape, "Q4_0")
    ops = {p.op for p in width_problems(config, file, 4096, ["prompt", "batch"], "cpu")}
    assert ops - {"grouped_matmul"} == {"matmul"}
    assert "gated_delta" in {p.op for p in width_problems(config, file, 4096, ["prompt"], "cuda")}


def test_a_shared_expert_is_two_products_more(opened) -> None:
    """On a processor three, and its gate a row below the router."""
    config, file = opened("tiny-qwen35moe", "Q4_0")
    mixture = config.layer(0).mixture
    assert mixture is not None
    on_gpu = {p.name: p.over(64) for p in layer_products(config, file, 0)}
    both, back = on_gpu["shared_gate_up"], on_gpu["shared_down"]
    assert both == Matmul(2 * mixture.shared_ffn, config.hidden, "Q4_0", 64, gate="silu")
    assert back == Matmul(config.hidden, mixture.shared_ffn, "Q4_0", 64)
    on_cpu = {p.name: p.over(64) for p in layer_products(config, file, 0, "cpu")}
    assert on_cpu["router"] == Matmul(mixture.experts + 1, config.hidden, "F32", 64)
    assert on_cpu["shared_gate"] == on_cpu["shared_up"] and on_cpu["shared_down"] == back


def test_windows_bound_what_attention_is_tuned_at(opened) -> None:
    config, file = opened("tiny-gemma2", "Q4_0")  # every second layer has a window of 8
    problems = pass_problems(config, file, [PassSize(1, 64, 5120)])
    attention = {p.window: p for p in problems if isinstance(p, PagedAttention)}
    assert attention[8].context == 160 and attention[0].context == 5120
    assert problems[attention[8]] + problems[attention[0]] == config.layers
    gates = {p.gate for p in problems if isinstance(p, Matmul)}
    assert gates <= {"", "gelu"}


@given(st.integers(1, 9000), st.sampled_from(["cpu", "cuda"]))
def test_every_pass_has_a_tuned_one_near(capacity: int, backend: str) -> None:
    """No further than lookups borrow, from 8 rows on: fewer are speculation's, or few texts."""
    prompts = [s.tokens for s in tuned_sizes("prompt", capacity, backend)]
    texts = [s.sequences for s in tuned_sizes("batch", capacity, backend)]
    step = 2**keys.WIDEST_STEP
    assert max(prompts) <= widths.MOST[backend]
    for size in every_size(capacity, backend=backend):
        if size.tokens >= keys.LEAST_BORROWED:
            assert any(1 / step <= size.tokens / tokens <= step for tokens in prompts), size
        if size.sequences > 1:
            assert size.sequences in texts


@given(st.integers(1, 5000), st.integers(1, 2048))
def test_a_bucket_holds_the_rows_and_is_among_the_passes(capacity: int, rows: int) -> None:
    size = widths.bucket(rows)
    assert rows <= size and (size < 2 * rows or size == widths.LEAST)
    if rows <= capacity:
        assert any(s.sequences == 1 and s.tokens == size for s in every_size(capacity))
    assert all(s.context in widths.contexts(capacity) for s in every_size(capacity))
