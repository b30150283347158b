"""Attention that finishes the heads of a pass's own rows, in Triton's interpreter, against float64: queries from raw
heads, and keys and values into pages that nobody reads them from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_texts import CONTEXT, Texts, config, few

from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.pages import PagedCache
from kernel_templates.cuda.rows import append
from kernel_templates.cuda.rows.append import Heads
from kernel_templates.paged_attention import cuda

EPS = 1e-6
HALF = 2**-11  # of a number, that float16 rounds it by


class RawTexts(Texts):
    """Texts whose last `tokens` positions are still NaN in the pages, at which this pass's raw heads belong."""

    def __init__(self, ends, tokens, rope_dim=None, qk_norm=True, bias=True, **shape):
        super().__init__(ends, tokens, **shape)
        p, rng = self.problem, np.random.default_rng(9)
        self.total, self.rope_dim = p.heads + 2 * p.kv_heads, rope_dim or p.head_dim
        self.qkv = rng.standard_normal((p.rows, self.total, p.head_dim), np.float32)
        self.bias = rng.standard_normal((self.total, p.head_dim), np.float32) if bias else None
        self.norms = rng.uniform(0.5, 1.5, (2, p.head_dim)).astype(np.float32) if qk_norm else None
        angles = np.linspace(0, 50, CONTEXT * self.rope_dim // 2).reshape(CONTEXT, -1)
        self.rope = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        self.finish()

    def finish(self):
        """What the heads are, rounded to float16, in place of the random ones; the pages keep what came before."""
        p = self.problem
        made = self.qkv.astype(np.float64) + (0 if self.bias is None else self.bias)
        at = self.positions.ravel()
        for part, heads in enumerate((slice(0, p.heads), slice(p.heads, p.heads + p.kv_heads))):
            if self.norms is not None:
                x = made[:, heads]
                made[:, heads] = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * self.norms[part]
            n = self.rope_dim // 2
            cos, sin = (side.astype(np.float64)[:, None] for side in np.split(self.rope[np.maximum(at, 0)], 2, 1))
            a, b = made[:, heads, :n].copy(), made[:, heads, n : 2 * n].copy()
            made[:, heads, :n], made[:, heads, n : 2 * n] = a * cos - b * sin, b * cos + a * sin
        self.made = made.astype(np.float16)
        self.q = torch.from_numpy(self.made[:, : p.heads].copy())
        self.places = {}  # of used rows in the cache's table
        for row in np.flatnonzero(at >= 0):
            text, position = row // p.tokens, int(at[row])
            own = self.made[row, p.heads :].reshape(2, p.kv_heads, p.head_dim)
            self.kv[text][:, :, position] = own
            self.places[row] = (int(self.order[text]), position)

    def cached(self, memory, row):
        """[2, kv_heads, head_dim]: what lies in the pages where a row's keys and values belong."""
        text, position = self.places[row]
        page, base = self.paged.page, self.paged.cache.storage_offset()
        slot = (int(self.paged.table[text, position // page]) + base) // memory.stride(0)
        return memory[slot, 1, :, :, position % page]

    def heads(self):
        bias, norms = (None if v is None else torch.from_numpy(v) for v in (self.bias, self.norms))
        p = self.problem
        return Heads(p.heads, p.kv_heads, p.head_dim, torch.from_numpy(self.rope), EPS, bias, norms)

    def check(self, chosen):
        """The outputs, and every element of the cache; what is computed from is NaN where no row needs it."""
        before = self.whole.clone()
        for row in self.places:
            self.cached(before, row).fill_(torch.nan)
        self.whole.copy_(before)
        qkv = torch.from_numpy(self.qkv.copy())
        qkv[self.positions.ravel() < 0] = torch.nan
        self.run(chosen, qkv=qkv.view(len(qkv), -1), finish=self.heads(), q=torch.full_like(self.q, torch.nan))
        for row in self.places:
            found = self.cached(self.whole, row)
            wanted = torch.from_numpy(self.made[row, self.problem.heads :].reshape(found.shape))
            assert (found - wanted).abs().max() <= 2 * HALF * wanted.abs().max()
            found.fill_(torch.nan)
        assert torch.equal(self.whole.nan_to_num(7e4), before.nan_to_num(7e4)), "more has changed than the rows' places"


def slow(*values):
    """A case that adds little to the others and takes seconds."""
    return pytest.param(*values, marks=pytest.mark.slow)


CONFIGS = [few(splits=4), slow(few(64, 4)), slow(few(16, 1, 8, "kernel"))]


@pytest.mark.parametrize("chosen", CONFIGS, ids=str)
@pytest.mark.parametrize("ends", [(0, 64, 130), slow((15, 16, 17, 128)), slow((63, 200))], ids=str)
def test_texts_of_unlike_lengths(ends, chosen):
    RawTexts(ends, 1).check(chosen)


@pytest.mark.parametrize("tokens", [2, slow(3), slow(5), 8])
@pytest.mark.parametrize("chosen", CONFIGS, ids=str)
def test_tokens_see_each_other_and_what_stands_before(tokens, chosen):
    """Also from the text's first position on, and over the edge of a page."""
    RawTexts((tokens - 1, 66), tokens).check(chosen)


@pytest.mark.parametrize("window", [slow(1), 4, slow(16), 33])
@pytest.mark.parametrize("chosen", [few(splits=2), slow(few(16, 1, 4))], ids=str)
def test_windows_and_a_soft_cap(window, chosen):
    """A window that ends among the tokens of the pass, and one that the pages are needed for."""
    RawTexts((5, 200), 6, window=window, softcap=3.0, scale=0.4).check(chosen)


@pytest.mark.parametrize(("heads", "kv_heads"), [slow(4, 2), slow(24, 1), slow(8, 2), (3, 1)])
def test_one_program_writes_a_key_head(heads, kv_heads):
    """Of several blocks of tokens, and of several parts of the heads that share it."""
    RawTexts((40, 70), 7, heads=heads, kv_heads=kv_heads).check(few(splits=2))


@pytest.mark.parametrize(("head_dim", "rope_dim"), [(80, 80), (96, 48), slow(128, 128), slow(256, 64)])
@pytest.mark.parametrize(("qk_norm", "bias"), [(True, False), (False, True), slow(False, False)])
def test_kinds_of_heads(head_dim, rope_dim, qk_norm, bias):
    RawTexts((5, 90), 3, rope_dim, qk_norm, bias, head_dim=head_dim).check(few(splits=2))


@pytest.mark.parametrize("chosen", CONFIGS, ids=str)
def test_unused_rows_leave_the_cache_alone(chosen):
    """The last of a text, a whole text, and all, whose raw heads may be anything."""
    texts = RawTexts((70, 90, 33), 4)
    texts.positions[0, 2:] = -1
    texts.positions[2] = -1
    texts.finish()
    texts.check(chosen)
    texts.positions[:] = -1
    texts.finish()
    texts.check(chosen)


def test_as_a_kernel_of_its_own_would() -> None:
    """The same cache to the bit where there is no norm, whose weights are multiplied in another order."""
    texts, chosen = RawTexts((3, 64, 130), 3, qk_norm=False, heads=4, kv_heads=2), few(splits=2)
    texts.check(chosen)
    memory = [texts.whole.clone().zero_() for _ in range(2)]
    rows = texts.buffers() | {"qkv": torch.from_numpy(texts.qkv).view(len(texts.qkv), -1), "q": texts.q}
    for target, finish in zip(memory, (True, False), strict=True):
        base = target.reshape(-1)[texts.paged.cache.storage_offset() :]
        p = texts.paged
        paged = PagedCache(base, p.table, p.layer, p.values, p.head_stride, p.page)
        if finish:
            buffers = rows | {"finish": texts.heads(), "paged": paged}
            for launch in cuda.launches(texts.problem, chosen, (), buffers):
                launch.run(INTERPRETED)
        else:
            append.launch(texts.heads(), rows, paged).run(INTERPRETED)
    assert memory[0].any() and torch.equal(*memory)


def test_tiles_in_shared_memory_are_refused() -> None:
    texts = RawTexts((70,), 3)
    with pytest.raises(ValueError, match="tokens=3"):
        texts.check(config())


@pytest.mark.slow
@given(st.data())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_whatever_the_problem_and_the_configuration(data):
    group, kv_heads = data.draw(st.sampled_from([1, 2, 3, 4])), data.draw(st.sampled_from([1, 2]))
    tokens = data.draw(st.sampled_from([1, 2, 3, 8]))
    ends = data.draw(st.lists(st.integers(tokens - 1, 140), min_size=1, max_size=2))
    tile, warps = data.draw(st.sampled_from([(16, 1), (32, 1), (32, 2), (64, 2), (64, 4)]))
    combine = data.draw(st.sampled_from(["last", "kernel"]))
    chosen = few(tile, warps, data.draw(st.sampled_from([1, 2, 4])), combine)
    texts = RawTexts(
        tuple(ends), tokens, data.draw(st.sampled_from([16, 8])), data.draw(st.booleans()), data.draw(st.booleans()),
        heads=group * kv_heads, kv_heads=kv_heads, window=data.draw(st.sampled_from([0, 1, 20, 100])),
    )  # fmt: skip
    unused = data.draw(st.integers(0, tokens))
    if unused:
        texts.positions[-1, tokens - unused :] = -1
        texts.finish()
    texts.check(chosen)
