"""Several texts at once on the GPU: one pass a step for a token of each, over a cache in pages that they share.

A step is one graph: a token is chosen for every row from the logits that it has, becomes the row's next token, and goes
through the layers and the head, which leave the next logits. So steps follow each other on the device alone, and the
host only says which row is which text, when one joins or leaves, and where the next pages are.

Rows are compacted: the texts that take part are the first ones, so that few texts run the kernels of few rows.
"""

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernel_templates.cuda.launch import Launch
from kernel_templates.sample_token import cuda_rows
from kernel_templates.sample_token.cuda_rows import RowScratch, RowSettings
from kernel_templates.space import Config
from model.cuda import delta_states, device_memory
from model.cuda.execution import Program
from model.cuda.forward import Forward
from model.cuda.last_token import LastToken
from model.cuda.load import cached_heads
from model.cuda.out_of_memory import explain_out_of_memory
from model.cuda.page_pool import ADVICE, PagePool, PageShape, Promise
from model.errors import ModelError
from model.layer_plan import cache_of
from model.sampling import Sampler
from model.sequences import BROKEN, Sequences
from model.widths import PassSize, bucket

SLOTS = 8
"""Steps whose tokens the device keeps for the host: a power of two, more than are sent ahead."""


@dataclass(eq=False)
class _Text:
    """number: as its caller knows it; slot: its row of the page table; position: of the token whose logits its row
    has; left: tokens that will still be chosen for it."""

    number: int
    slot: int
    promise: Promise
    settings: RowSettings
    position: int
    left: int


def row_settings(sampler: Sampler) -> RowSettings:
    """As the device reads them; a seed of its own where none was given."""
    seed = secrets.randbits(63) if sampler.seed is None else sampler.seed
    return RowSettings(sampler.temperature, sampler.top_k, sampler.top_p, seed)


class CudaSequences(Sequences):
    """forward: passes over the pages of `pool`, through a table with a row for each of `most` texts; last_token: gives
    the logits after a prompt; states: bytes of what layers keep of texts beside their pages."""

    def __init__(
        self, forward: Forward, pool: PagePool, last_token: LastToken, most: int, states: int = 0
    ) -> None:  # fmt: skip
        self._states = states
        self.most, self.context = most, forward.model.capacity
        self._forward, self._pool, self._last_token = forward, pool, last_token
        self._executor = forward.executor
        self._texts: dict[int, _Text] = {}
        self._rows: list[_Text] = []
        self._slots = list(reversed(range(most)))
        self._joined = self._sent = 0
        self._steps: deque[tuple[int, ...]] = deque()
        self._programs: dict[tuple[int, int, bool], Program] = {}
        rows, device = bucket(most), self._executor.device
        self._logits = forward.logits(rows)  # of all sizes, so that a row stays where it is when others come and go
        self._table = torch.zeros(forward.cache[0].table.shape, dtype=torch.int64)
        self._table_changed = self._rows_changed = True
        """Since the device was told."""
        self._scratch = RowScratch.allocate(rows, self._logits.shape[1], device)
        self._history = torch.zeros((SLOTS, rows, 2), dtype=torch.int32, device=device)
        self._step = torch.zeros(1, dtype=torch.int32, device=device)
        with self._executor.here():
            self._readback = self._executor.readback(2 * rows, SLOTS)

    def join(self, prompt: Sequence[int], tokens: int, sampler: Sampler) -> int | None:
        positions = min(len(prompt) + tokens, self.context)
        if (needed := self._pool.shape.pages(positions)) > self._pool.most:
            page = self._pool.shape.bytes / 1e6
            why = ", since experts fill the GPU" if self._forward.model.on_host else ""
            raise ModelError(
                f"a text of {positions} tokens needs {needed * page:,.0f} MB of KV cache and "
                f"{self._pool.most * page:,.0f} MB may be taken{why}; ask for fewer tokens or give a shorter prompt"
            )
        if len(self._texts) >= self.most or (promise := self._pool.promise(positions)) is None:
            return None
        text = _Text(self._joined, self._slots.pop(), promise, row_settings(sampler), len(prompt) - 1, tokens)
        self._texts[text.number] = text
        self._joined += 1
        try:
            with self._executor.here():
                self._reach(text, len(prompt))
                self._upload_table()
                hidden = self._forward.read(prompt, 0, text.slot)
                self._logits[len(self._rows)].copy_(self._last_token.logits(hidden[0]))
        except BaseException:
            self.leave(text.number)
            raise
        self._rows.append(text)
        self._rows_changed = True
        return text.number

    def send(self) -> None:
        rows = len(self._rows)
        with self._executor.here():
            if rows:
                for text in self._rows:
                    self._reach(text, text.position + 2)
                self._upload_table()
                self._upload_rows()
                self._program()()
            self._readback.send(self._history[self._sent % SLOTS, :rows])
        self._sent += bool(rows)
        self._steps.append(tuple(text.number for text in self._rows))
        for text in list(self._rows):
            text.position += 1
            text.left -= 1
            if text.left == 0:
                self._drop(text)

    def receive(self) -> dict[int, int]:
        with self._executor.here():
            numbers, values = self._steps.popleft(), self._readback.receive()
        chosen = zip(numbers, values[::2], values[1::2], strict=True)
        return {number: BROKEN if broken else token for number, token, broken in chosen}

    def leave(self, text: int) -> None:
        left = self._texts.pop(text)
        if left in self._rows:
            self._drop(left)
        left.promise.end()
        self._table[left.slot] = 0  # so that nothing reads what is freed
        self._table_changed = True
        self._slots.append(left.slot)
        if not self._texts:
            self._pool.trim()

    @property
    def cache_bytes(self) -> int:
        return self._pool.bytes + self._states

    def launches(self, rows: int, context: int, sampled: bool) -> list[Launch]:
        """The kernels of one step of so many rows, a power of two."""
        inputs, s = self._inputs(rows), self._scratch
        tokens, positions = inputs["tokens"], inputs["positions"]
        choose = cuda_rows.launches_sampling if sampled else cuda_rows.launches_greedy
        first, *others = self._forward.launches(PassSize(rows, 1, context, head=True))
        return [
            *choose(rows, self._logits, positions, s),
            *cuda_rows.launches_advance(rows, s, tokens, positions, self._history, self._step),
            # Attention reads positions, and what the step before has put into the pages, before it waits.
            replace(first, after_all=True),
            *others,
        ]

    def _drop(self, text: _Text) -> None:
        """The text takes part in no further step; the last row moves to its place."""
        at, last = self._rows.index(text), len(self._rows) - 1
        if at < last:
            with self._executor.here():
                self._logits[at].copy_(self._logits[last])
            self._rows[at] = self._rows[last]
        self._rows.pop()
        self._rows_changed = True

    def _reach(self, text: _Text, positions: int) -> None:
        """Take the pages of its first positions."""
        if text.promise.reach(positions):
            self._table[text.slot, : len(text.promise.taken)] = torch.tensor(text.promise.taken)
            self._table_changed = True

    def _upload_table(self) -> None:
        if self._table_changed:
            upload(self._forward.cache[0].table, self._table)  # one for all layers
            self._table_changed = False

    def _upload_rows(self) -> None:
        """Which text each row is, where it is, and how its tokens are chosen. Steps move the positions themselves."""
        if not self._rows_changed:
            return
        inputs, unused = self._inputs(bucket(len(self._rows))), bucket(len(self._rows)) - len(self._rows)
        upload(inputs["positions"], torch.tensor([t.position for t in self._rows] + [-1] * unused, dtype=torch.int32))
        upload(inputs["sequences"], torch.tensor([t.slot for t in self._rows] + [0] * unused, dtype=torch.int32))
        self._scratch.set([t.settings for t in self._rows])
        self._rows_changed = False

    def _inputs(self, rows: int) -> Mapping[str, Tensor]:
        return self._forward.inputs(rows, 1)

    def _program(self) -> Program:
        """A step of the rows that there are; built when first asked for."""
        context = self._forward.bound(max(text.position for text in self._rows) + 1)
        key = bucket(len(self._rows)), context, not all(text.settings.greedy for text in self._rows)
        if key not in self._programs:
            kept = self._logits.clone()  # a library's product is run before it is captured
            self._programs[key] = self._executor.program(self.launches(*key), "step")
            self._logits.copy_(kept)
        return self._programs[key]


def upload(to: Tensor, values: Tensor) -> None:
    """Copy from the host in the order of the stream; returns at once, and `values` may change."""
    to.copy_(values.pin_memory() if to.is_cuda else values, non_blocking=True)


def opened(forward: Forward, head_config: Config, most: int, limit: int | None = None) -> CudaSequences:
    """Up to `most` texts, no more than a pass has rows, through a model's passes, over pages of their own. limit: bytes
    that the pages may take; None: what `device_memory.room` says. head_config: what decode's head runs with. Raises
    ModelError when memory does not suffice."""
    c, capacity, executor = forward.model.config, forward.model.capacity, forward.executor
    most = min(most, forward.most)
    shape = PageShape(cached_heads(c), form=forward.model.form)
    room = device_memory.room(executor.device, forward.model.memory)
    with executor.here(), explain_out_of_memory(f"what {most} texts need beside the model", ADVICE):
        states = delta_states.of_layers(c.sizes, most, executor.device)
        pool = PagePool(shape, executor.device, room if limit is None else limit)
        table = torch.zeros((most, shape.pages(capacity)), dtype=torch.int64, device=executor.device)
        last_token = LastToken(forward.model, head_config, executor)
        layers = pool.cache(table)
        cache = tuple(layers[cache_of(c, i)] for i in range(c.layers))
        kept = sum(tensor.nbytes for of_layer in states for tensor in of_layer.values())
        return CudaSequences(forward.over(cache, states), pool, last_token, most, kept)
