"""Choosing a token for many rows at once, interpreted: every row as the single text's kernels choose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_templates import formats
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import INTERPRETED, Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.sample_token import cuda, cuda_rows
from kernel_templates.sample_token.cuda_rows import RowScratch, RowSettings

NAN, INF = float("nan"), float("inf")
UNTOUCHED = -7

SETTINGS = st.builds(
    RowSettings,
    st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    st.sampled_from([0, 1, 2, 5, 40, 10_000]),
    st.sampled_from([0.05, 0.7, 0.95, 1.0]),
    st.integers(0, 2**64 - 1),
)
SPOILED = st.sampled_from([None, None, None, None, NAN, -NAN, INF])


def run(launches: list[Launch]) -> None:
    for launch in launches:
        launch.run(INTERPRETED)


def alone(logits: torch.Tensor, position: int, how: RowSettings) -> tuple[int, int]:
    """(token, status) of the single text's kernels."""
    vocab = logits.numel()
    parts = [p for p in torch.arange(vocab).tensor_split(3) if len(p)]
    best = [int(p[np.argmax(logits[p].numpy())]) for p in parts]
    table = formats.get("F32").quantize(torch.zeros(vocab, 32))
    ints = torch.zeros(1, dtype=torch.int32)
    buffers = {
        "x": Vector.allocate(32, "cpu"),
        "logits": logits,
        "best_value": logits[best],
        "best_id": torch.tensor(best, dtype=torch.int32),
        "position": ints + position,
        "token": ints.clone(),
        "history": torch.zeros(8, dtype=torch.int32),
        "status": ints.clone(),
    }
    scratch = cuda.Scratch.allocate(vocab, "cpu")
    scratch.set(how.temperature, how.top_k, how.top_p, how.seed)
    embedding = Embedding(table, "F32", 32)
    greedy = cuda.launches_greedy(buffers, embedding)
    run(greedy if how.greedy else cuda.launches_sampling(buffers, embedding, scratch))
    return int(buffers["token"]), int(buffers["status"])


def together(logits: torch.Tensor, positions: list[int], how: list[RowSettings], sampled: bool) -> list[list[int]]:
    """scratch.chosen after one choice; bins are empty then."""
    rows, vocab = logits.shape
    scratch = RowScratch.allocate(rows, vocab, "cpu")
    scratch.set(how)
    scratch.chosen.fill_(UNTOUCHED)
    launches = cuda_rows.launches_sampling if sampled else cuda_rows.launches_greedy
    run(launches(rows, logits, torch.tensor(positions, dtype=torch.int32), scratch))
    assert not any(bins.any() for bins in scratch.bins)
    return scratch.chosen.tolist()


@st.composite
def rows_of_logits(draw: st.DrawFn, how: st.SearchStrategy[RowSettings]) -> tuple[torch.Tensor, list, list]:
    rows, vocab = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 31, 256, 300, 700]))
    made = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = draw(st.sampled_from([0.01, 2.0, 50.0])) * torch.randn(rows, vocab, generator=made)
    if draw(st.booleans()):
        logits = logits.round()  # ties, also of the largest, and zeros of both signs
    for row in range(rows):
        if (bad := draw(SPOILED)) is not None:
            logits[row, draw(st.integers(0, vocab - 1))] = bad
    positions = draw(st.lists(st.sampled_from([-1, 0, 5, 2**20]), min_size=rows, max_size=rows))
    return logits, positions, draw(st.lists(how, min_size=rows, max_size=rows))


def check(given: tuple[torch.Tensor, list, list], sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, positions, how = given
    with monkeypatch.context() as patch:
        patch.setattr(cuda_rows, "SIZE", 256)  # so that a vocabulary of 700 takes three programs
        found = together(logits, positions, how, sampled)
    for row, position in enumerate(positions):
        if position < 0:
            assert found[row] == [UNTOUCHED] * 2
        else:
            assert tuple(found[row]) == alone(logits[row], position, how[row]), (row, how[row])


@settings(max_examples=40)
@given(rows_of_logits(st.just(RowSettings())))
def test_greedy_rows_are_the_single_text_s(given: tuple[torch.Tensor, list, list]) -> None:
    check(given, False, pytest.MonkeyPatch())


@settings(max_examples=12)
@given(rows_of_logits(SETTINGS))
def test_sampled_rows_are_the_single_text_s(given: tuple[torch.Tensor, list, list]) -> None:
    """Greedy rows among them."""
    check(given, True, pytest.MonkeyPatch())


def test_the_smallest_of_equals_across_programs(monkeypatch):
    monkeypatch.setattr(cuda_rows, "SIZE", 256)
    logits = torch.zeros(2, 700)
    logits[0, [300, 650]], logits[1, [699, 255]] = 3.0, 2.0
    for sampled in (False, True):
        assert together(logits, [0, 0], [RowSettings()] * 2, sampled) == [[300, 0], [255, 0]]


@pytest.mark.parametrize("bad", [NAN, -NAN, INF])
def test_only_the_broken_row_is_broken(bad):
    logits = torch.arange(600.0).reshape(3, 200)
    logits[1, 33] = bad
    for sampled, how in ((False, RowSettings()), (True, RowSettings(0.01)), (True, RowSettings(0.01, 40, 0.9))):
        assert together(logits, [0, 0, 0], [how] * 3, sampled) == [[199, 0], [0, 1], [199, 0]]
    logits[1].fill_(-INF)  # nothing finite
    assert together(logits, [0, 0, 0], [RowSettings()] * 3, False) == [[199, 0], [0, 1], [199, 0]]


def test_settings_change_between_tokens_of_one_chain():
    """What a chain of fewer rows leaves does not disturb the next of more."""
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(3))
    scratch, positions = RowScratch.allocate(4, 300, "cpu"), torch.tensor([3, 4, 5, 6], dtype=torch.int32)
    how = [RowSettings(1.0, 40, 0.9, 5), RowSettings(), RowSettings(1.5, 0, 0.8, 6), RowSettings(0.7, 7, 1.0, 7)]
    for order in ((0, 1), (0, 1, 2, 3), (3, 2), (2, 3, 0, 1)):
        scratch.set([how[i] for i in order])
        run(cuda_rows.launches_sampling(len(order), logits, positions, scratch))
        wanted = [alone(logits[row], 3 + row, how[i]) for row, i in enumerate(order)]
        assert [tuple(found) for found in scratch.chosen.tolist()][: len(order)] == wanted


def test_advance_moves_the_rows_in_use():
    scratch = RowScratch.allocate(4, 40, "cpu")
    history, step = torch.full((2, 4, 2), UNTOUCHED, dtype=torch.int32), torch.tensor([2**31 - 1], dtype=torch.int32)
    tokens, positions = torch.tensor([1, 2, 3, 4], dtype=torch.int32), torch.tensor([0, -1, 9, 7], dtype=torch.int32)
    scratch.chosen.copy_(torch.tensor([[10, 0], [20, 0], [30, 1], [40, 0]]))
    launches = cuda_rows.launches_advance(2, scratch, tokens, positions, history, step)
    run(launches)
    assert tokens.tolist() == [10, 2, 3, 4] and positions.tolist() == [1, -1, 9, 7]
    assert history.tolist() == [[[UNTOUCHED] * 2] * 4, [[10, 0], *[[UNTOUCHED] * 2] * 3]]
    run(cuda_rows.launches_advance(4, scratch, tokens, positions, history, step))  # the count of steps has wrapped
    assert positions.tolist() == [2, -1, 10, 8] and tokens.tolist() == [10, 2, 30, 40]
    assert history[0].tolist() == [[10, 0], [UNTOUCHED] * 2, [30, 1], [40, 0]]


def test_a_vocabulary_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="too large"):
        RowScratch.allocate(1, cuda_rows.MOST_PARTIALS * cuda_rows.SIZE + 1, "cpu")
