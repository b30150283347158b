"""Launches that choose a token for every row of logits: greedy in two, sampled in eight, however many rows there are.

logits float32 [rows, vocab]; positions int32 [rows], of the token whose logits a row has: -1 where it is not in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.lazy_triton import triton
from kernel_templates.sample_token import row_kernels
from kernel_templates.sample_token.cuda import SAMPLE_WARPS, top_k_and_seed
from kernel_templates.sample_token.sampling import COARSE

SIZE = 2048
"""Tokens a program looks at. Rows fill the device together, and every program of a stage reads all its row's bins."""
MOST_PARTIALS = 8192
"""Partial results that the one program of a row picks from."""


@dataclass(frozen=True)
class RowSettings:
    """How a row's token is chosen, as `cuda.Scratch.set` takes it."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


@dataclass(frozen=True)
class RowScratch:
    """As `cuda.Scratch`, for many rows: the first axis of every tensor. chosen: int32 [rows, 2], the token, and 1 where
    the largest logit was not a finite number, else 0. One chain at a time, of any number of the first rows."""

    temperature_top_p: torch.Tensor
    top_k_seed: torch.Tensor
    counts: torch.Tensor
    masses: torch.Tensor
    peak: torch.Tensor
    state: torch.Tensor
    best_value: torch.Tensor
    best_id: torch.Tensor
    chosen: torch.Tensor

    @classmethod
    def allocate(cls, rows: int, vocab: int, device: str | torch.device) -> "RowScratch":
        """Settings are greedy until `set`. ValueError for a vocabulary that is too large."""
        programs = triton.cdiv(vocab, SIZE)
        if programs > MOST_PARTIALS:
            raise ValueError(f"a vocabulary of {vocab} is too large; at most {MOST_PARTIALS * SIZE} are chosen from")

        def zeros(columns: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros((rows, columns), dtype=dtype, device=device)

        return cls(
            torch.tensor([[0.0, 1.0]] * rows, device=device),
            zeros(3, torch.int32),
            zeros(row_kernels.COUNTS.value, torch.int32),
            zeros(row_kernels.MASSES.value, torch.int64),
            torch.full((rows, 1), float("nan"), device=device),
            zeros(row_kernels.STATES.value, torch.int64),
            torch.full((rows, programs), float("nan"), device=device),
            zeros(programs, torch.int32),
            zeros(2, torch.int32),
        )

    @property
    def bins(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts and masses of stage 1, which are all zero between tokens."""
        return self.counts[:, : COARSE.value], self.masses[:, : COARSE.value]

    def set(self, settings: Sequence[RowSettings]) -> None:
        """Settings of the first rows for the next tokens, in the order of the stream; returns before they are there."""
        floats = torch.tensor([[s.temperature, s.top_p] for s in settings], dtype=torch.float32)
        words = torch.stack([top_k_and_seed(s.top_k, s.seed) for s in settings])
        if self.peak.is_cuda:
            floats, words = floats.pin_memory(), words.pin_memory()
        self.temperature_top_p[: len(settings)].copy_(floats, non_blocking=True)
        self.top_k_seed[: len(settings)].copy_(words, non_blocking=True)


def launches_greedy(rows: int, logits: torch.Tensor, positions: torch.Tensor, scratch: RowScratch) -> list[Launch]:
    """The most likely token of each of the first rows, the smallest of equals, to scratch.chosen."""
    return [_argmax(rows, logits, positions, scratch), _choose(rows, positions, scratch)]


def launches_sampling(rows: int, logits: torch.Tensor, positions: torch.Tensor, scratch: RowScratch) -> list[Launch]:
    """A token for each of the first rows by its settings in `scratch`, greedy ones among them, to scratch.chosen."""
    s, vocab = scratch, logits.shape[1]
    grid = _grid(rows, scratch)
    settings, bins = (s.temperature_top_p, s.top_k_seed), (s.counts, s.masses, s.peak)
    partials = {"PARTIALS": s.best_value.shape[1], "SIZE": SIZE}
    chunk = {"CHUNK": triton.next_power_of_2(s.best_value.shape[1])}
    first = Launch(
        "sample", row_kernels.coarse_rows, grid, (logits, positions, s.best_value, *settings, *bins, vocab),
        partials | chunk, SAMPLE_WARPS,
    )  # fmt: skip
    refined = (logits, positions, *settings, *bins, s.state, vocab)
    refine = [
        Launch("sample", row_kernels.refine_rows, grid, refined, {"STAGE": stage, "SIZE": SIZE}, SAMPLE_WARPS)
        for stage in (2, 3, 4, 5)
    ]
    drawn = (s.masses, s.peak, s.state, s.best_value, s.best_id, vocab)
    draw = Launch(
        "sample", row_kernels.draw_rows, grid, (logits, positions, *settings, *drawn), partials, SAMPLE_WARPS
    )  # fmt: skip
    return [_argmax(rows, logits, positions, s), first, *refine, draw, _choose(rows, positions, s)]


def launches_advance(
    rows: int, scratch: RowScratch, tokens: torch.Tensor, positions: torch.Tensor, history: torch.Tensor,
    step: torch.Tensor,
) -> list[Launch]:  # fmt: skip
    """What was chosen becomes the next tokens of the first rows (a power of two), one position further. history int32
    [slots, most rows, 2], slots a power of two; step int32 [1]: steps made so far."""
    slots, stride, _ = history.shape
    arguments = (scratch.chosen, tokens, positions, history, step)
    return [
        Launch("advance", row_kernels.advance, (1,), arguments, {"ROWS": rows, "SLOTS": slots, "STRIDE": stride}, 1)
    ]


def _argmax(rows: int, logits: torch.Tensor, positions: torch.Tensor, scratch: RowScratch) -> Launch:
    arguments = (logits, positions, scratch.best_value, scratch.best_id, logits.shape[1])
    constants = {"PARTIALS": scratch.best_value.shape[1], "SIZE": SIZE}
    return Launch(
        "argmax", row_kernels.partial_argmax_rows, _grid(rows, scratch), arguments, constants, SAMPLE_WARPS
    )  # fmt: skip


def _choose(rows: int, positions: torch.Tensor, scratch: RowScratch) -> Launch:
    count = scratch.best_value.shape[1]
    constants = {"PARTIALS": count, "CHUNK": triton.next_power_of_2(count)}
    arguments = (scratch.best_value, scratch.best_id, positions, scratch.chosen)
    return Launch("choose", row_kernels.choose_rows, (1, rows), arguments, constants)


def _grid(rows: int, scratch: RowScratch) -> tuple[int, int]:
    return scratch.best_value.shape[1], rows
