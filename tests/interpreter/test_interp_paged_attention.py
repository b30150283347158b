"""Attention over many rows in Triton's interpreter, against float64: pages anywhere, texts of unlike lengths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_texts import LAYERS, Texts, config, few
from triton.runtime import interpreter

from kernel_templates import float64, proof, registry
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.pages import in_one_piece
from kernel_templates.device import Device
from kernel_templates.paged_attention import cuda, reference
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.verify import verify

ANY = Device("cuda", "any", "9.0", 8, 1 << 34)


def slow(*values):
    """A case that adds little to the others and takes seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("chosen", [
    config(), config(tile=64, splits=4), config(splits=4, combine="kernel"), slow(config(tile=16, edges="apart")),
    config(tile=128, splits=2, edges="apart"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("ends", [(0, 63, 64, 200), slow((15, 16, 17, 127, 128)), (255,)], ids=str)
def test_texts_of_unlike_lengths(ends, chosen):
    Texts(ends).run(chosen)


@pytest.mark.parametrize("chosen", [few(splits=2), slow(few(16, 1, 4, "kernel")), slow(few(64, 4)), slow(few(64, 2))])
@pytest.mark.parametrize(("ends", "tokens", "shape"), [
    ((0, 64, 130), 1, {}), slow((7, 66), 8, {"heads": 4}), slow((5, 200), 6, {"window": 33, "softcap": 3.0}),
    slow((40, 70), 2, {"heads": 24, "head_dim": 80}), slow((63, 127), 3, {"heads": 9, "kv_heads": 3, "page": 16}),
    slow((40,), 4, {"head_dim": 256}),
], ids=str)  # fmt: skip
def test_tiles_in_registers(ends, tokens, shape, chosen):
    """Rows of unused ones, at one position, and of several parts of the heads that share a key."""
    texts = Texts(ends, tokens, **shape)
    texts.run(chosen)
    texts.positions[:] = texts.positions.max(1, keepdims=True)
    texts.run(chosen)
    texts.positions[-1] = -1
    texts.run(chosen)


@pytest.mark.parametrize("tokens", [slow(1), 2, slow(3), 5, 8])
@pytest.mark.parametrize(
    "chosen",
    [
        config(splits=4),
        config(tile=64, edges="apart"),
        slow(config(32, 16, splits=8)),
        slow(config(splits=4, combine="kernel")),
    ],
    ids=str,
)
def test_speculation_sees_what_stands_before_each_token(tokens, chosen):
    """Also from the text's first position on, and over the edge of a page."""
    Texts((tokens - 1, 63, 64, 66), tokens).run(chosen)


@pytest.mark.parametrize("chosen", [
    config(64, 32, 4, edges="apart"), config(128, 64, 8), slow(config(16, 16, edges="apart")),
    config(32, 128, 2, edges="apart"), slow(config(64, 64, 4, splits=4, edges="apart")),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("end", [slow(63), 100, slow(255)])
def test_prompts(end, chosen):
    """From the first position on, or a chunk in the middle of one."""
    Texts((end,), 64, seed=end).run(chosen)


@pytest.mark.parametrize("window", [1, slow(2), slow(16), 31, slow(64), 65])
@pytest.mark.parametrize("chosen", [
    slow(config(tile=16, splits=2)), config(32, 32, edges="apart"), slow(config(64, 16, 4, splits=4, edges="apart")),
    config(64, 128, 4, edges="apart"),
], ids=str)  # fmt: skip
def test_window(window, chosen):
    """Nothing before it counts: of several rows of one text, each has its own."""
    for ends, tokens in (((0, window - 1, window, 130), 1), ((66, 200), 5), ((100,), 40)):
        Texts(ends, tokens, window=window, seed=window).run(chosen)


@pytest.mark.parametrize("chosen", [config(splits=2), config(32, 64, edges="apart")], ids=str)
def test_soft_cap_and_scale(chosen):
    Texts((20, 130), 3, softcap=3.0, scale=0.4).run(chosen)
    Texts((20, 130), 3, softcap=3.0, window=17).run(chosen)
    Texts((20, 130), 3, scale=2.0, window=33, q_scale=0.1).run(chosen)


@pytest.mark.parametrize("chosen", [
    config(), config(splits=4), config(splits=4, combine="kernel"), config(32, 64, edges="apart"),
    few(), few(16, 1, 4), few(splits=2, combine="kernel"),
], ids=str)  # fmt: skip
def test_sinks_count_once(chosen):
    """However many splits have anything: a text's first position is one split's, position 200 that of all."""
    texts = Texts((0, 64, 200), 1, heads=6, kv_heads=2, head_dim=32, sinks=1)
    texts.run(chosen)
    Texts((3, 130), 4, heads=2, head_dim=32, sinks=1, window=33, softcap=3.0).run(chosen)
    texts.sinks[:] = torch.tensor([2000.0, -2000.0, 90.0, 0.0, -90.0, 5.0])
    texts.run(chosen)
    texts.positions[1] = -1
    texts.run(chosen)


@pytest.mark.parametrize("head_dim", [slow(48), slow(64), 80, slow(96), slow(112), 128, slow(256)])
def test_head_sizes(head_dim):
    Texts((5, 90), 3, 2, 1, head_dim).run(config(16, 32, splits=2))
    Texts((70,), 20, 2, 1, head_dim).run(config(32, 64, edges="apart"))


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), slow(3, 3), slow(9, 3), slow(7, 1), (24, 1), slow(40, 2)])
def test_groups(heads, kv_heads):
    """Of three, tokens do not fill the rows; of 20 or 24, a program has a part of the heads that share a key."""
    Texts((40, 70), 2, heads, kv_heads, 16).run(config(16, 32, splits=2))
    Texts((70,), 23, heads, kv_heads, 16).run(config(64, 32, edges="apart"))


@pytest.mark.parametrize(("page", "tile"), [(16, 64), (32, 16), (128, 64), slow(32, 128), slow(128, 128)])
def test_pages_of_any_size(page, tile):
    Texts((15, 31, 127, 130), 2, page=page).run(config(tile=tile, splits=2))


@pytest.mark.parametrize("chosen", [
    config(splits=2), config(32, 64, edges="apart"), slow(config(16, 16, splits=2, edges="apart")),
    slow(config(splits=2, combine="kernel")),
], ids=str)  # fmt: skip
def test_unused_rows_change_nothing_and_stay_finite(chosen):
    """Some at the end of a chunk, a whole text of them, and all."""
    used = Texts((70, 90, 33), 8, seed=3)
    before = used.run(chosen).reshape(3, 8, 2, -1)
    used.positions[0, 5:] = -1
    used.positions[2] = -1
    after = used.run(chosen)
    assert np.array_equal(after[:5], before[0, :5]) and np.array_equal(after[5:], before[1])
    used.positions[:] = -1
    used.run(chosen)


@pytest.mark.parametrize("at_once", [1, 64])
def test_splits_are_joined_in_one_order_whoever_ends_last(monkeypatch, at_once):
    """To the bit, and the counters are zeros as they were; at_once: all splits are read at once, or two."""
    monkeypatch.setattr(cuda, "_JOINED", at_once)
    texts, chosen = Texts((40, 200), 1, heads=1), config(tile=16, splits=8)
    counts, outs = torch.zeros(cuda.counters(texts.problem, chosen), dtype=torch.int32), []
    place = interpreter.interpreter_builder.set_grid_idx
    for order in ((0, 1, 2, 3, 4, 5, 6, 7), (7, 6, 5, 4, 3, 2, 1, 0), (3, 1, 7, 0, 2, 6, 5, 4)):
        monkeypatch.setattr(
            interpreter.interpreter_builder, "set_grid_idx", lambda x, y, z, order=order: place(x, y, order[z])
        )
        outs.append(texts.run(chosen, attention_counters=counts))
    assert np.array_equal(outs[0], outs[1]) and np.array_equal(outs[0], outs[2])
    assert len(counts) == 2 and not counts.any()
    (launch,) = cuda.launches(texts.problem, chosen, (), texts.buffers())
    assert launch.constants["RUN"] == min(2 * at_once, 8)


def test_scores_beyond_what_exp_can_hold():
    for chosen in (config(splits=2), config(16, 32, edges="apart")):
        Texts((1, 100), 2, q_scale=400.0).run(chosen)


def test_values_at_the_end_of_float16_stay_finite():
    texts = Texts((200,), 1, heads=2, kv_heads=1)
    texts.kv[0][1] = np.float16(65504)
    page = texts.whole[:, 1, 1]
    page[~page.isnan()] = 65504
    texts.run(config(splits=2))


def test_rows_at_one_place():
    """Rows need not follow each other: each sees what its own position says, as proofs have it."""
    texts = Texts((100, 130), 4, window=50)
    for text, place in enumerate((100, 130)):
        texts.positions[text] = [place, place, place - 3, place]
    texts.run(config(splits=2))
    texts.run(config(32, 16, edges="apart"))


def test_a_cache_in_one_piece_is_paged_too():
    """As the decode kernels have it, with a capacity that is no multiple of a page."""
    texts, capacity = Texts((199,), 3, heads=2, kv_heads=2), 200
    cache = torch.zeros(LAYERS, 2, 2, capacity, 16, dtype=torch.float16)
    cache[1] = torch.from_numpy(texts.kv[0])
    _, texts.paged, *_ = in_one_piece(tuple(cache))
    texts.run(config(tile=64, splits=2))
    texts.run(config(tile=128, edges="apart"))


@given(st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_whatever_the_problem_and_the_configuration(data):
    group, kv_heads = data.draw(st.sampled_from([1, 2, 3, 4])), data.draw(st.sampled_from([1, 2]))
    tokens = data.draw(st.sampled_from([1, 2, 3, 8, 17]))
    ends = data.draw(st.lists(st.integers(tokens - 1, 140), min_size=1, max_size=2))
    window = data.draw(st.sampled_from([0, 0, 1, 20, 64, 100]))
    chosen = config(
        data.draw(st.sampled_from([16, 32, 64])), data.draw(st.sampled_from([16, 32, 64, 128])), 1,
        data.draw(st.sampled_from([1, 2, 4])), data.draw(st.sampled_from(["apart", "alike"])),
        combine=data.draw(st.sampled_from(["last", "kernel"])),
    )  # fmt: skip
    Texts(tuple(ends), tokens, group * kv_heads, kv_heads, 16, seed=len(ends), window=window).run(chosen)


KEYS = [
    "paged_attention:sequences=3,tokens=1,heads=4,kv_heads=2,head_dim=16,context=150",
    "paged_attention:sequences=1,tokens=70,heads=3,kv_heads=1,head_dim=48,context=100,window=17",
    "paged_attention:sequences=2,tokens=3,heads=4,kv_heads=1,head_dim=80,context=120,window=70,softcap=20.0,scale=0.2",
    "paged_attention:sequences=2,tokens=2,heads=4,kv_heads=2,head_dim=64,context=150,window=100,sinks=1",
]


@pytest.mark.parametrize("key", KEYS)
def test_as_the_problem_is_judged(key):
    """At every place of a proof, with the default and some other configurations."""
    problem = registry.parse_problem(key)
    operation, space = registry.get(problem.op), registry.cuda_space(problem, ANY)
    found, configs = proof.of(problem, 3), space.configs()
    for chosen in (space.default, configs[len(configs) // 3]):
        buffers = cuda.prepare(problem, found.inputs, "cpu")
        for position, expected in ((None, found.expected), *found.elsewhere):
            if position is not None:
                buffers["position"].fill_(position)
            for launch in cuda.launches(problem, chosen, (), buffers):
                launch.run(INTERPRETED)
            verify(cuda.collect(problem, buffers), expected, operation.tolerance(problem))


@pytest.mark.parametrize("window", [0, 90])
def test_the_reference_is_what_rows_alone_give(window):
    """Against the plain sum over one row and head, from the pages as the reference holds them."""
    problem = PagedAttention(2, 3, 4, 2, 16, 150, window=window, softcap=9.0)
    b = reference.inputs(problem, 1).buffers
    whole = reference.outputs(problem, reference.inputs(problem, 1))["out"].reshape(6, 4, 16)
    for row, head in ((0, 0), (2, 3), (4, 1)):
        position, slots = int(b["positions"][row]), b["slots"][b["sequences"][row]] % reference.DISTINCT
        k, v = (b[n][slots, head // 2].reshape(-1, 16)[: position + 1].astype(np.float64) for n in ("keys", "values"))
        s = float64.soft_cap(k @ b["q"][row, head].astype(np.float64) * 0.25, 9.0)
        s[: max(position + 1 - window, 0) if window else 0] = -np.inf
        w = np.exp(s - s.max())
        np.testing.assert_allclose(whole[row, head], w @ v / w.sum(), rtol=1e-10)


def test_a_wrong_page_a_missing_position_and_an_unused_row_are_noticed():
    problem = registry.parse_problem(KEYS[0])
    given_ = reference.inputs(problem, 2)
    right = reference.outputs(problem, given_)
    moved = given_.buffers["slots"].copy()
    moved[:, 0] = moved[::-1, 0]
    for change in (
        {"slots": moved}, {"positions": given_.buffers["positions"] - 1},
        {"sequences": given_.buffers["sequences"][::-1]},
    ):  # fmt: skip
        wrong = reference.outputs(problem, replace(given_, buffers={**given_.buffers, **change}))
        with pytest.raises(Exception, match="above the tolerance"):
            verify(wrong, right, reference.tolerance(problem))
    unused = given_.buffers["positions"].copy()
    unused[1] = -1
    given_.buffers["positions"] = unused
    assert not reference.outputs(problem, given_)["out"][1].any()
