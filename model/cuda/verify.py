"""Proposals for a text verified in one pass: what `Decoder.stream` would choose after each of a few tokens.

The caller waits for every pass, so whatever the host does for one is added to its time. A pass is one program: it reads
its tokens from memory of the host and leaves what it chose there, and the host looks until that has come.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.rows import fetch
from kernel_templates.sample_token import cuda_rows
from kernel_templates.sample_token.cuda_rows import RowScratch, RowSettings
from model.cuda.execution import Program
from model.cuda.forward import Forward
from model.cuda.sequences import row_settings
from model.errors import NOT_FINITE, ModelError
from model.sampling import Sampler
from model.widths import PassSize, bucket

MOST = 16
"""Tokens of a pass."""

NOT_YET = -1
"""In place of a word that the device has not written yet; no token, and no flag."""
WORD = "i"
"""int32 for `array`, whose views are read and written in a fraction of the time that numpy's take for so few words."""


class _Key(NamedTuple):
    """What passes are captured apart for: rows, a power of two; a context above all positions; whether tokens are drawn
    or the likeliest ones."""

    rows: int
    context: int
    sampled: bool


@dataclass(frozen=True)
class _Pass:
    """A pass that can begin. tokens, positions: int32 [rows], memory of the host that it reads."""

    tokens: memoryview
    positions: memoryview
    run: Program


class Verifier:
    """forward: passes over the text's cache."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self._executor = forward, forward.executor
        self._passes: dict[_Key, _Pass] = {}
        self._compiled: dict[_Key, Callable[[], bool]] = {}
        self._inputs: dict[int, Tensor] = {}
        self._sampler: Sampler | None = None
        self._of_sampler = self._on_device = RowSettings()
        most = bucket(MOST)
        scratch = RowScratch.allocate(most, forward.logits(most).shape[1], self._executor.device)
        self._scratch = replace(scratch, chosen=self._executor.shared(most, 2))
        self._chosen = self._scratch.chosen.view(-1).numpy().data

    def verify(self, tokens: Sequence[int], first: int, sampler: Sampler) -> list[int]:
        """As `Runner.verify`, of at most MOST tokens."""
        count, settings = len(tokens), self._settings(sampler)
        chosen = self._chosen[: 2 * count]
        with self._executor.here():
            made = self._pass(self._key(count, first, settings))
            if not settings.greedy and settings != self._on_device:
                self._scratch.set([settings] * len(self._scratch.chosen))
                self._on_device = settings
            # The pass before has ended, or nobody would have got its tokens: nothing reads this now.
            made.tokens[:count] = array(WORD, tokens)
            made.positions[:] = array(WORD, [*range(first, first + count), *[-1] * (len(made.positions) - count)])
            chosen[:] = array(WORD, [NOT_YET] * len(chosen))  # rows that are not in use are not written, now or late
            self._executor.run_until(made.run, lambda: NOT_YET not in chosen.tolist())
        words = chosen.tolist()
        if any(words[1::2]):
            raise ModelError(NOT_FINITE)
        return words[::2]

    def make_ready(self, count: int, first: int, sampler: Sampler) -> bool:
        """As `Runner.make_ready`: kernels are compiled beside what goes on, then their graph is captured."""
        key = self._key(count, first, self._settings(sampler))
        if key not in self._passes:
            with self._executor.here():
                if key not in self._compiled:
                    self._compiled[key] = self._executor.compile(self._launches(key))
                if not self._compiled[key]():
                    return False
                self._pass(key)
        return True

    def _key(self, count: int, first: int, settings: RowSettings) -> _Key:
        return _Key(bucket(count), self._forward.bound(first + count - 1), not settings.greedy)

    def _pass(self, key: _Key) -> _Pass:
        """Built when first asked for."""
        if key not in self._passes:
            program = self._executor.program(self._launches(key), "verify")
            tokens, positions, _ = self._host_inputs(key.rows)[:, : key.rows].numpy()
            self._passes[key] = _Pass(tokens.data, positions.data, program)
        return self._passes[key]

    def _launches(self, key: _Key) -> list[Launch]:
        """Its inputs fetched, the pass, and a token chosen after each row."""
        f, inputs = self._forward, self._forward.inputs(1, key.rows)
        choose = cuda_rows.launches_sampling if key.sampled else cuda_rows.launches_greedy
        first, *others = f.launches(PassSize(1, key.rows, key.context, head=True))
        return [
            fetch.launch(self._host_inputs(key.rows), inputs["all"]),
            replace(first, after_all=True),  # kernels behind it read positions before they wait
            *others,
            *choose(key.rows, f.logits(key.rows), inputs["positions"], self._scratch),
        ]

    def _host_inputs(self, rows: int) -> Tensor:
        """What passes over so many rows read, as `Forward.inputs` has it on the device; all of text 0."""
        if rows not in self._inputs:
            self._inputs[rows] = self._executor.shared(*self._forward.inputs(1, rows)["all"].shape)
        return self._inputs[rows]

    def _settings(self, sampler: Sampler) -> RowSettings:
        """A text has one sampler."""
        if sampler is not self._sampler:
            self._sampler, self._of_sampler = sampler, row_settings(sampler)
        return self._of_sampler
