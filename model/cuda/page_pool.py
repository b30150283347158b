"""Pages of a KV cache that several texts share: promised when a text joins, taken when it reaches them.

Pages are allocated a few at a time, since PyTorch's allocator hands out less than it takes for tensors between 1 and
20 MB. A table finds a page by its offset from one tensor, wherever it lies (`kernel_templates.cuda.pages`).
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kernel_templates.attention.cache import F16
from kernel_templates.cuda.pages import PAGE, PagedCache
from model.cuda.out_of_memory import explain_out_of_memory

SLAB = 20 << 20
"""Bytes allocated at once, at least: from here on PyTorch rounds up to 2 MB only."""
MOST_TOGETHER = 8
"""Pages allocated at once, at most: those of small models are small."""
ROUNDED = 2 << 20
SCALE = 4
"""Bytes of a scale, and so the elements of int8 in its place."""

ADVICE = "decode fewer texts at once, or give them fewer tokens"


@dataclass(frozen=True)
class PageShape:
    """layers: of each, its key-value heads, none if it keeps no keys, and their size; form: of the cache."""

    layers: tuple[tuple[int, int], ...]
    positions: int = PAGE
    form: str = F16

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each layer's part of a page, keys and values."""
        return tuple(2 * kv_heads * self.positions * head_dim for kv_heads, head_dim in self.layers)

    @property
    def elements(self) -> int:
        return sum(self.sizes)

    @property
    def scales(self) -> tuple[int, ...]:
        """Of each layer's part of a page, behind all layers' elements; none of float16."""
        return tuple(0 if self.form == F16 else 2 * kv_heads * self.positions for kv_heads, _ in self.layers)

    @property
    def bytes(self) -> int:
        """Of a page."""
        return self.elements * self.dtype.itemsize + SCALE * sum(self.scales)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.form == F16 else torch.int8

    def pages(self, positions: int) -> int:
        """Pages that hold so many positions of one text."""
        return -(-positions // self.positions)


@dataclass(frozen=True, eq=False)
class Slab:
    """Pages allocated together: float16 [pages, elements], in a page layer after layer [2, kv_heads, positions,
    head_dim]; or int8 [pages, bytes], behind those float32 scales, layer after layer too [2, kv_heads, positions];
    their offsets."""

    pages: Tensor
    offsets: tuple[int, ...]


class PagePool:
    """At most `limit` bytes of pages, what the allocator rounds up included."""

    def __init__(self, shape: PageShape, device: torch.device, limit: int) -> None:
        self.shape, self._device = shape, device
        size = max(shape.bytes, 1)
        self._together = min(-(-SLAB // size), MOST_TOGETHER)
        slab = self._together * size
        slab += -slab % ROUNDED if slab >= SLAB else 0
        self.most = limit * self._together // slab
        """Pages that may be promised."""
        self.promised = 0
        self._slabs: list[Slab] = []
        self._free: list[int] = []
        with explain_out_of_memory("a page of the KV cache", ADVICE):
            # What entries of a table point at that no position uses yet: zeros, never written.
            self._blank = self._allocate(1)

    def promise(self, positions: int) -> "Promise | None":
        """Pages for so many positions of one text, to be taken one by one; None while others were promised too many."""
        count = self.shape.pages(positions)
        if self.promised + count > self.most:
            return None
        self.promised += count
        return Promise(self, count)

    def cache(self, table: Tensor) -> tuple[PagedCache, ...]:
        """The pages as kernels of each layer find them, through int64 [texts, most pages of one]; offset 0 may always
        be read."""
        shape, sizes, made = self.shape, self.shape.sizes, []
        for i, (_, head_dim) in enumerate(shape.layers):
            head_stride = shape.positions * head_dim
            layer = PagedCache(self._blank, table, sum(sizes[:i]), sizes[i] // 2, head_stride, shape.positions)
            if shape.form != F16:
                first = shape.elements // SCALE + sum(shape.scales[:i])
                scales = self._blank.view(torch.float32)
                layer = replace(layer, scales=scales, scale_layer=first, per_scale=SCALE)
            made.append(layer)
        return tuple(made)

    @property
    def bytes(self) -> int:
        """What the pages take of memory, free ones included."""
        return sum(slab.pages.nbytes for slab in self._slabs)

    @property
    def free(self) -> int:
        """Pages in memory that no text has."""
        return len(self._free)

    def trim(self) -> None:
        """Return to the allocator what no text uses."""
        free = set(self._free)
        kept = [slab for slab in self._slabs if not free.issuperset(slab.offsets)]
        offsets = {offset for slab in kept for offset in slab.offsets}
        self._slabs, self._free = kept, [offset for offset in self._free if offset in offsets]

    def take(self) -> int:
        """A page's offset in elements. Raises ModelError when the device has less memory than was promised."""
        if not self._free:
            wanted = f"{(self.bytes + self._together * self.shape.bytes) / 1e9:.2f} GB of KV cache"
            with explain_out_of_memory(wanted, ADVICE):
                pages = self._allocate(self._together)
            apart = [page.data_ptr() - self._blank.data_ptr() for page in pages]
            offsets = tuple(offset // pages.element_size() for offset in apart)
            self._slabs.append(Slab(pages, offsets))
            self._free += reversed(offsets)
        return self._free.pop()

    def give(self, offsets: list[int]) -> None:
        self._free += reversed(offsets)

    def _allocate(self, count: int) -> Tensor:
        # Zeros, because a tile may read positions that no token has reached, and 0 times NaN is NaN.
        dtype = self.shape.dtype
        return torch.zeros((count, self.shape.bytes // dtype.itemsize), dtype=dtype, device=self._device)


@dataclass(eq=False)
class Promise:
    """A text's pages. count: those it may take; taken: offsets in the order of its positions."""

    pool: PagePool
    count: int
    taken: list[int] = field(default_factory=list)

    def reach(self, positions: int) -> bool:
        """Take the pages of so many positions; whether any was missing. They are within what was promised."""
        wanted = self.pool.shape.pages(positions)
        assert wanted <= self.count, f"{wanted} pages of {self.count} promised"
        missing = wanted > len(self.taken)
        while len(self.taken) < wanted:
            self.taken.append(self.pool.take())
        return missing

    def end(self) -> None:
        """Everything back to the pool."""
        self.pool.give(self.taken)
        self.pool.promised -= self.count
        self.taken, self.count = [], 0
