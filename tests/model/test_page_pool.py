"""The pages of a KV cache that texts share: none given twice, promises kept, memory that grows by what is used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

pytest.importorskip("triton")

from model.cuda import page_pool
from model.cuda.page_pool import PagePool, PageShape, Promise
from model.errors import ModelError

SHAPE = PageShape(((2, 16), (1, 32), (2, 16)), positions=4)
PAGE_BYTES = 2 * SHAPE.elements
CPU = torch.device("cpu")


def page_at(pool: PagePool, offset: int) -> torch.Tensor:
    """The page there; kernels find every element of it, once, by the strides that they use."""
    caches = pool.cache(torch.zeros((1, 1), dtype=torch.int64))
    (slab, i), *others = [
        (slab, slab.offsets.index(offset)) for slab in pool._slabs if offset in slab.offsets
    ]  # the one memory that an offset may lie in
    assert not others
    page = slab.pages[i]
    assert offset % 8 == 0
    found = set()
    for (kv_heads, head_dim), cache in zip(SHAPE.layers, caches, strict=True):
        assert page.data_ptr() == cache.cache.data_ptr() + 2 * offset
        starts = {cache.layer + v * cache.values + h * cache.head_stride for v in range(2) for h in range(kv_heads)}
        found |= {start + i for start in starts for i in range(cache.page * head_dim)}
    assert found == set(range(page.numel()))
    return page


class Texts(RuleBasedStateMachine):
    """Texts join, reach positions and leave; each writes its number into every page that it takes."""

    promises = Bundle("promises")

    @initialize(most=st.integers(0, 20))
    def open(self, most: int) -> None:
        self.pool = PagePool(SHAPE, CPU, most * PAGE_BYTES)
        assert self.pool.most == most
        self.there: dict[Promise, int] = {}
        self.joined = 0

    @rule(target=promises, positions=st.integers(1, 40))
    def join(self, positions: int) -> Promise | None:
        before = self.pool.promised
        promise = self.pool.promise(positions)
        needed = -(-positions // SHAPE.positions)
        assert (promise is None) == (before + needed > self.pool.most)
        if promise is not None:
            self.joined += 1
            self.there[promise] = self.joined
        return promise

    @rule(promise=promises, share=st.floats(0, 1))
    def reach(self, promise: Promise | None, share: float) -> None:
        if promise is None or promise not in self.there:
            return
        positions = int(share * promise.count * SHAPE.positions)
        had = list(promise.taken)
        missing = promise.reach(positions)
        assert missing == (len(promise.taken) > len(had))
        assert promise.taken[: len(had)] == had and len(promise.taken) * SHAPE.positions >= positions
        for offset in promise.taken[len(had) :]:
            page = page_at(self.pool, offset)
            assert page.isfinite().all()
            page.fill_(self.there[promise])

    @rule(promise=consumes(promises))
    def leave(self, promise: Promise | None) -> None:
        if promise in self.there:
            del self.there[promise]
            promise.end()

    @rule()
    def trim(self) -> None:
        self.pool.trim()
        together = self.pool._together
        taken = sum(len(promise.taken) for promise in self.there)
        assert self.pool.bytes <= taken * together * PAGE_BYTES

    @invariant()
    def nothing_is_shared_or_lost(self) -> None:
        taken = [offset for promise in self.there for offset in promise.taken]
        assert len(set(taken)) == len(taken)
        assert self.pool.bytes == (len(taken) + self.pool.free) * PAGE_BYTES
        assert self.pool.promised == sum(promise.count for promise in self.there) <= self.pool.most
        for promise, number in self.there.items():
            assert all((page_at(self.pool, offset) == number).all() for offset in promise.taken)
        assert not self.pool._blank.any()


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=30, stateful_step_count=30)


def test_memory_grows_by_what_is_used() -> None:
    pool = PagePool(SHAPE, CPU, 1 << 20)
    promise = pool.promise(SHAPE.positions * 20)
    assert promise is not None and pool.bytes == 0
    promise.reach(1)
    assert pool.bytes == page_pool.MOST_TOGETHER * PAGE_BYTES
    promise.reach(SHAPE.positions * 17)
    assert pool.bytes == 3 * page_pool.MOST_TOGETHER * PAGE_BYTES
    promise.end()
    pool.trim()
    assert (pool.bytes, pool.free, pool.promised) == (0, 0, 0)


def test_pages_that_come_back_are_used_again() -> None:
    pool = PagePool(SHAPE, CPU, 1 << 20)
    for _ in range(5):
        promise = pool.promise(SHAPE.positions * 8)
        assert promise is not None
        promise.reach(SHAPE.positions * 8)
        promise.end()
    assert pool.bytes == 8 * PAGE_BYTES


def test_the_limit_counts_what_the_allocator_rounds_up() -> None:
    """36 layers of 8 heads of 128: 9.4 MB a page, 27 MiB for three, which take 28."""
    pool = PagePool(PageShape(((1, 16),)), CPU, 0)
    assert pool.most == 0 and pool.promise(1) is None
    large = PageShape(((8, 128),) * 36)
    assert 2 * large.elements == 9_437_184
    assert -(-page_pool.SLAB // 9_437_184) == 3
    assert PagePool(large, torch.device("meta"), 28 << 20).most == 3
    assert PagePool(large, torch.device("meta"), (28 << 20) * 10 - 1).most == 29


def test_memory_that_runs_out_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PagePool(SHAPE, CPU, 1 << 20)
    promise = pool.promise(100)
    assert promise is not None
    zeros: Callable[..., Any] = torch.zeros

    def full(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(ModelError, match=r"does not hold 0\.00 GB of KV cache"):
        promise.reach(1)
    monkeypatch.setattr(torch, "zeros", zeros)
    assert promise.reach(1) and len(promise.taken) == 1


def test_pages_of_eight_bits() -> None:
    """A page has all layers' bytes and behind them all scales, each once; half a page of float16 and the scales."""
    shape = PageShape(SHAPE.layers, SHAPE.positions, "q8_0")
    assert shape.bytes == SHAPE.bytes // 2 + 4 * sum(shape.scales) and shape.bytes % 4 == 0
    pool = PagePool(shape, CPU, 1 << 30)
    promise = pool.promise(3 * shape.positions)
    assert promise is not None and promise.reach(3 * shape.positions)
    table = torch.tensor([promise.taken])
    for page in promise.taken:
        (whole,) = [s.pages[s.offsets.index(page)] for s in pool._slabs if page in s.offsets]
        found: list[int] = []
        for (kv_heads, head_dim), layer in zip(shape.layers, pool.cache(table), strict=True):
            assert layer.scales is not None and layer.scale_layer is not None
            places = [(v, h, p) for v in range(2) for h in range(kv_heads) for p in range(layer.page)]
            for v, h, p in places:
                element = layer.layer + v * layer.values + h * layer.head_stride + p * head_dim
                found += range(element, element + head_dim)
                scale = layer.scale_layer + (v * layer.values + h * layer.head_stride) // head_dim + p
                found += range(4 * scale, 4 * scale + 4)
                at = layer.scales.data_ptr() + 4 * (page // layer.per_scale + scale)
                assert at == whole.data_ptr() + 4 * scale
        assert sorted(found) == list(range(shape.bytes)) == list(range(whole.numel()))
