"""Passes whose logits are a hash of the tokens that a text's pages hold, in place of a model's.

A model takes a second for a token in the interpreter, and its logits change little when the cache is wrong. These find
pages as kernels do, through the table and from the cache's first element, and any wrong or missing token changes all.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from kernel_templates.cuda.launch import INTERPRETED, Target
from kernel_templates.cuda.pages import PagedCache
from model.cuda.execution import EagerExecutor, Program
from model.widths import PassSize

VOCAB = 50


@dataclass(frozen=True)
class Pass:
    """spoil: what a library's product does to its result when it is run before a capture; after_all: see Launch."""

    name: str
    act: Callable[[], None]
    spoil: Callable[[], None]
    after_all: bool = False

    def run(self, target: Target) -> None:
        self.act()


class SpoilingExecutor(EagerExecutor):
    def program(self, launches: Sequence[Any], name: str = "token") -> Program:
        for launch in launches:
            if isinstance(launch, Pass):
                launch.spoil()
        return super().program(launches, name)


class HashPasses:
    """What `CudaSequences` uses of `Forward`, and of `LastToken`. A token lies in the first layer's cache as a float16,
    at the first element of its position's first key."""

    def __init__(self, cache: Sequence[PagedCache], capacity: int, rows: int) -> None:
        self.cache, self.executor = cache, SpoilingExecutor(INTERPRETED)
        self.model = SimpleNamespace(capacity=capacity, on_host=False)
        self._logits = torch.full((rows, VOCAB), torch.nan)
        self._inputs: dict[int, dict[str, torch.Tensor]] = {}

    def inputs(self, sequences: int, tokens: int) -> dict[str, torch.Tensor]:
        assert tokens == 1
        if sequences not in self._inputs:
            names = ("tokens", "positions", "sequences")
            self._inputs[sequences] = {n: torch.full((sequences,), -1, dtype=torch.int32) for n in names}
        return self._inputs[sequences]

    def bound(self, position: int) -> int:
        return 8 if position < 8 else self.model.capacity

    def logits(self, rows: int) -> torch.Tensor:
        """From a row of what `read` gave too."""
        return self._logits[:rows]

    def launches(self, size: PassSize) -> list[Pass]:
        inputs = self.inputs(size.sequences, size.tokens)

        def act() -> None:
            for row in range(size.rows):
                token, position, text = (int(inputs[n][row]) for n in ("tokens", "positions", "sequences"))
                if position >= 0:
                    assert position < size.context
                    self._logits[row] = self._predict(token, position, text)

        def spoil() -> None:
            self._logits[: size.rows] = 0

        return [Pass("hash", act, spoil)]

    def read(self, tokens: Sequence[int], first: int, text: int) -> torch.Tensor:
        return torch.stack([self._predict(token, first + i, text) for i, token in enumerate(tokens)])[-1:]

    def _predict(self, token: int, position: int, text: int) -> torch.Tensor:
        self._at(text, position)[0] = token
        seen = hash(tuple(int(self._at(text, p)[0]) for p in range(position + 1)))
        return 3 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seen % 2**31))

    def _at(self, text: int, position: int) -> np.ndarray:
        """float16 [head_dim], the first key of a position."""
        c = self.cache[0]
        page = int(c.table[text, position // c.page])
        assert page != 0, "a position without a page of its own"
        dim = c.head_stride // c.page
        address = c.cache.data_ptr() + 2 * (page + position % c.page * dim)
        return np.frombuffer((ctypes.c_char * (2 * dim)).from_address(address), np.float16)


class FromHidden:
    """What the last layer gave are the logits."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden
