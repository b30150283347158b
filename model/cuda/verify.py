"""Proposals for a text verified in one pass: what `Decoder.stream` would choose after each of a few tokens."""

from collections.abc import Callable, Sequence

from kernel_templates.cuda.launch import Launch
from kernel_templates.sample_token import cuda_rows
from kernel_templates.sample_token.cuda_rows import RowScratch
from model.cuda.execution import Program
from model.cuda.forward import Forward
from model.cuda.sequences import row_settings
from model.errors import NOT_FINITE, ModelError
from model.sampling import Sampler
from model.widths import PassSize, bucket

MOST = 16
"""Tokens of a pass."""


class Verifier:
    """forward: passes over the text's cache."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self._executor = forward, forward.executor
        self._programs: dict[tuple[PassSize, bool], Program] = {}
        self._compiled: dict[tuple[PassSize, bool], Callable[[], bool]] = {}
        most = bucket(MOST)
        self._scratch = RowScratch.allocate(most, forward.logits(most).shape[1], self._executor.device)

    def verify(self, tokens: Sequence[int], first: int, sampler: Sampler) -> list[int]:
        """As `Runner.verify`, of at most MOST tokens."""
        count, settings = len(tokens), row_settings(sampler)
        size = self._size(count, first)
        with self._executor.here():
            if not settings.greedy:
                self._scratch.set([settings] * count)
            self._forward.place(size, tokens, range(first, first + count), [0] * count)
            self._program(size, not settings.greedy)()
            # Nothing else is under way, so this waits on the pass's own stream: no event, no copy on another.
            chosen = self._scratch.chosen[:count].tolist()
        if any(broken for _, broken in chosen):
            raise ModelError(NOT_FINITE)
        return [token for token, _ in chosen]

    def make_ready(self, count: int, first: int, sampler: Sampler) -> bool:
        """As `Runner.make_ready`: kernels are compiled beside what goes on, then their graph is captured."""
        size, sampled = self._size(count, first), not row_settings(sampler).greedy
        if (size, sampled) not in self._programs:
            with self._executor.here():
                if (size, sampled) not in self._compiled:
                    self._compiled[size, sampled] = self._executor.compile(self._launches(size, sampled))
                if not self._compiled[size, sampled]():
                    return False
                self._program(size, sampled)
        return True

    def _size(self, count: int, first: int) -> PassSize:
        return PassSize(1, bucket(count), self._forward.bound(first + count - 1), head=True)

    def _program(self, size: PassSize, sampled: bool) -> Program:
        """A pass and its choices; built when first asked for."""
        if (size, sampled) not in self._programs:
            self._programs[size, sampled] = self._executor.program(self._launches(size, sampled), "verify")
        return self._programs[size, sampled]

    def _launches(self, size: PassSize, sampled: bool) -> list[Launch]:
        f, positions = self._forward, self._forward.inputs(size.sequences, size.tokens)["positions"]
        choose = cuda_rows.launches_sampling if sampled else cuda_rows.launches_greedy
        return [*f.launches(size), *choose(size.rows, f.logits(size.rows), positions, self._scratch)]
