"""Prompt lookup against a scan of the whole text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.prompt_lookup import LENGTHS, LONGEST, PromptLookup

REPETITIVE = st.lists(st.integers(0, 3), max_size=60)


def scanned(text: list[int]) -> tuple[int, int]:
    """(length of the match, where the token after it stands), by the definition; (0, 0) without one."""
    for n in LENGTHS:
        for end in range(len(text) - 1, n - 1, -1):
            if text[end - n : end] == text[-n:]:
                length = n
                while length < min(LONGEST, end) and text[end - length - 1] == text[-length - 1]:
                    length += 1
                return length, end
    return 0, 0


@given(REPETITIVE, REPETITIVE)
def test_it_finds_what_a_scan_finds(prompt: list[int], more: list[int]) -> None:
    lookup = PromptLookup(prompt)
    for token in [None, *more]:
        if token is not None:
            lookup.push(token)
        match, source = scanned(lookup.text)
        assert lookup.match == match
        assert lookup.predicted == (lookup.text[source] if match else None)
    assert lookup.text == prompt + more


@given(REPETITIVE, st.integers(0, 9))
def test_proposals_follow_the_match_and_go_on_from_themselves(text: list[int], count: int) -> None:
    lookup = PromptLookup(text)
    match, source = scanned(text)
    grown = list(text)
    for i in range(count if match else 0):
        grown.append(grown[source + i])
    assert lookup.propose(count) == grown[len(text) :]
    assert lookup.text == text


@pytest.mark.parametrize(
    ("text", "match", "proposed"),
    [
        ([], 0, []),
        ([1], 0, []),
        ([1, 1], 0, []),
        ([1, 2, 3, 1, 2], 2, [3, 1, 2, 3]),
        ([1, 2, 9, 1, 2, 8, 1, 2], 2, [8, 1, 2, 8]),  # the most recent
        ([5, 1, 2, 9, 4, 1, 2, 8, 5, 1, 2], 3, [9, 4, 1, 2]),  # the longest before the most recent
        ([7, 7, 7, 7], 3, [7, 7, 7, 7]),
        ([*range(30), *range(20)], LONGEST, [20, 21, 22, 23]),
    ],
)
def test_by_hand(text: list[int], match: int, proposed: list[int]) -> None:
    lookup = PromptLookup(text)
    assert (lookup.match, lookup.propose(4)) == (match, proposed)


@pytest.mark.timing
@pytest.mark.parametrize("period", [1, 50, 10**6])
def test_a_token_costs_the_same_in_a_long_text(period: int) -> None:
    lookup, seconds = PromptLookup(), []
    for _ in range(8):
        start = time.perf_counter()
        for _ in range(8192):
            lookup.push(len(lookup.text) % period)
        seconds.append(time.perf_counter() - start)
    assert min(seconds[4:]) < 3 * min(seconds[:4])
    assert min(seconds) / 8192 < 50e-6
