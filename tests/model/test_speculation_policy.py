"""When proposals are made: decisions by what was observed, and what they may cost under a simulated clock."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.prompt_lookup import LONGEST
from model.speculation_policy import (
    MATCHES,
    PRIOR,
    SIZES,
    STEPS_NEEDED,
    Observations,
    Watcher,
    decide,
    expected_tokens,
    pays,
)

STEP = 0.01
FLAT = {7: 1.3 * STEP, 3: 1.15 * STEP, 1: 1.05 * STEP}
STEEP = {7: 7.5 * STEP, 3: 3.6 * STEP, 1: 1.9 * STEP}
SURE, NEVER = (1.0,) * len(MATCHES), (0.0,) * len(MATCHES)


def test_expected_tokens_are_the_sum_over_what_is_kept() -> None:
    assert expected_tokens(SURE, 2, 7) == 8
    assert expected_tokens(NEVER, 16, 7) == 1
    assert expected_tokens((0.5,) * len(MATCHES), 2, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    rising = (0.1, 0.2, 0.4, 0.8, 1.0)  # a proposal that is kept makes the match of the next one longer
    assert expected_tokens(rising, 2, 3) == pytest.approx(1 + 0.1 + 0.1 * 0.2 + 0.1 * 0.2 * 0.4)


@pytest.mark.parametrize(
    ("seen", "match", "most", "wanted"),
    [
        (Observations(STEP, FLAT, SURE), 10, 99, 7),
        (Observations(STEP, FLAT, SURE), 10, 6, 3),
        (Observations(STEP, FLAT, SURE), 10, 2, 1),
        (Observations(STEP, FLAT, SURE), 10, 0, 0),
        (Observations(STEP, FLAT, SURE), 0, 99, 0),
        (Observations(0.0, FLAT, SURE), 10, 99, 0),  # no single step is known
        (Observations(STEP, FLAT, NEVER), 10, 99, 0),
        (Observations(STEP, FLAT, (0.2,) * 5), 2, 99, 1),  # a smaller pass loses less
        (Observations(STEP, STEEP, (0.5,) * 5, tokens=9999), 10, 99, 0),
        (Observations(STEP, STEEP, SURE, tokens=9999), 10, 99, 3),  # 4 tokens in 3.6 steps, 8 in 7.5
        (Observations(STEP, {}, PRIOR), 10, 99, 7),  # nothing is known yet: it is tried
        (Observations(STEP, FLAT, SURE, lost_s=2.5 * STEP, tokens=0), 10, 99, 0),  # too much is lost already
        (Observations(STEP, FLAT, SURE, lost_s=2.5 * STEP, tokens=100), 10, 99, 7),
        (Observations(STEP, STEEP, NEVER, tokens=9999, since_pass=256), 8, 99, 1),  # another try, the cheapest
        (Observations(STEP, STEEP, NEVER, tokens=9999, since_pass=255), 8, 99, 0),
        (Observations(STEP, STEEP, NEVER, tokens=9999, since_pass=256), 7, 99, 0),
        (Observations(STEP, STEEP, NEVER, lost_s=1.0, tokens=300, since_pass=256), 8, 99, 0),
    ],
)
def test_decisions(seen: Observations, match: int, most: int, wanted: int) -> None:
    assert decide(seen, match, most) == wanted


def test_it_is_off_where_no_match_pays() -> None:
    assert pays(Observations(STEP, FLAT, SURE))
    assert pays(Observations(0.0, {}, PRIOR))  # nothing is known against it
    assert not pays(Observations(STEP, FLAT, NEVER))
    assert not pays(Observations(STEP, {7: 9 * STEP, 3: 5 * STEP, 1: 3 * STEP}, SURE, tokens=9999))
    assert not pays(Observations(STEP, STEEP, NEVER, tokens=9999, since_pass=9999))


def simulated(
    watcher: Watcher, tokens: int, cost: Callable[[int], float], matches: list[int], chosen: list[bool]
) -> tuple[float, dict[int, int]]:
    """Seconds of a text under a clock that only steps and passes move, and how many passes there were of each size.
    matches: the length of the match at each token; chosen: whether the model chooses what would be proposed there."""
    watcher.begin()
    seconds, at, sizes = 0.0, 0, dict.fromkeys(SIZES, 0)

    def test(i: int) -> None:
        if matches[i % len(matches)]:
            watcher.tested(matches[i % len(matches)], chosen[i % len(chosen)])

    while at < tokens:
        size = watcher.proposals(matches[at % len(matches)], tokens - at - 1)
        if not size:
            watcher.stepped(STEP)
            seconds += STEP
            test(at)
            at += 1
            continue
        kept = 0
        while kept < size and chosen[(at + kept) % len(chosen)]:
            kept += 1
        watcher.passed(size, kept, cost(size))
        seconds += cost(size)
        sizes[size] += 1
        for i in range(at, at + kept + 1):
            test(i)
        at += kept + 1
    return seconds, sizes


@given(
    st.lists(st.floats(0.3, 12), min_size=3, max_size=3),
    st.lists(st.integers(0, LONGEST), min_size=1, max_size=40),
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 3000),
)
def test_no_text_takes_2_percent_more_than_single_steps(
    costs: list[float], matches: list[int], chosen: list[bool], tokens: int
) -> None:
    """Whatever the model chooses. Constant: two passes of each size, the first and the one that is measured first, and
    two steps and a half."""
    cost = dict(zip(SIZES, (STEP * steps for steps in costs), strict=True))
    seconds, _ = simulated(Watcher(), tokens, cost.__getitem__, matches, chosen)
    assert seconds <= 1.02 * STEP * tokens + 2 * sum(cost.values()) + 2.51 * STEP


@given(st.lists(st.floats(0.3, 12), min_size=3, max_size=3), st.integers(1, 400))
def test_against_a_model_that_never_chooses_what_is_proposed(costs: list[float], tokens: int) -> None:
    """A model that knows when it is watched: nothing that is proposed is chosen, everything that is not is."""
    cost = dict(zip(SIZES, (STEP * steps for steps in costs), strict=True))
    watcher, seconds, at = Watcher(), 0.0, 0
    while at < tokens:
        size = watcher.proposals(LONGEST, tokens - at - 1)
        if size:
            watcher.passed(size, 0, cost[size])
        else:
            watcher.stepped(STEP)
        seconds += cost[size] if size else STEP
        watcher.tested(LONGEST, not size)
        at += 1
    assert seconds <= 1.02 * STEP * tokens + 2 * sum(cost.values()) + 2.51 * STEP


def test_text_that_quotes_is_faster_and_text_that_does_not_costs_nothing() -> None:
    watcher = Watcher()
    quoting = [True] * 30 + [False] * 3
    seconds, sizes = simulated(watcher, 1000, FLAT.__getitem__, [12], quoting)
    assert 1000 * STEP / seconds > 3 and sizes[7] > 50
    assert not watcher.summary().off and watcher.summary().kept > 800
    seconds, sizes = simulated(watcher, 1000, FLAT.__getitem__, [0, 0, 2, 0, 0, 3], [False])
    assert seconds < 1.01 * 1000 * STEP and sum(sizes.values()) < 20


def test_it_turns_itself_off_and_on_again() -> None:
    """A pass cost ten steps while something else ran; once it does not, another try finds out."""
    watcher = Watcher()
    slow = dict.fromkeys(SIZES, 10 * STEP)
    seconds, _ = simulated(watcher, 500, slow.__getitem__, [12], [True])
    assert watcher.summary().off and seconds < 1.02 * 500 * STEP + 63 * STEP
    seconds, _ = simulated(watcher, 20_000, FLAT.__getitem__, [12], [True])
    assert not watcher.summary().off and seconds < 0.5 * 20_000 * STEP


def test_nothing_is_proposed_before_steps_are_known() -> None:
    watcher = Watcher()
    made = []
    for _ in range(STEPS_NEEDED + 2):
        made.append(watcher.proposals(LONGEST, 99))
        watcher.stepped(STEP)
    assert not any(made[: STEPS_NEEDED + 1]) and made[-1]  # the first waits for the prompt: it is no step


def test_times_stay_from_text_to_text_and_losses_do_not() -> None:
    watcher = Watcher()
    simulated(watcher, 300, FLAT.__getitem__, [12], [False, True])
    before = watcher.observations()
    watcher.begin()
    after = watcher.observations()
    assert (after.step_s, after.pass_s) == (before.step_s, before.pass_s)
    assert (after.lost_s, after.tokens, after.chosen) == (0.0, 0, pytest.approx(PRIOR))


def test_few_tokens_are_started_ahead_only_while_proposals_are_kept() -> None:
    watcher = Watcher()
    assert watcher.ahead is None
    watcher.passed(7, 3, STEP)
    assert watcher.ahead == 2
    for _ in range(32):
        watcher.stepped(STEP)
    assert watcher.ahead is None
    watcher.passed(7, 0, STEP)
    assert watcher.ahead is None


def test_what_a_step_after_a_pass_takes_longer_is_lost() -> None:
    watcher = Watcher()
    for _ in range(9):
        watcher.stepped(STEP)
    watcher.passed(7, 0, 5 * STEP)  # the first of its size
    assert watcher.observations().lost_s == 0
    watcher.stepped(1.5 * STEP)
    assert watcher.observations().lost_s == pytest.approx(0.5 * STEP)
    watcher.passed(7, 2, 5 * STEP)
    assert watcher.observations().lost_s == pytest.approx(2.5 * STEP)


def test_what_the_step_after_a_stop_without_a_pass_takes_longer_is_lost() -> None:
    watcher = Watcher()
    watcher.stopped()
    watcher.stepped(3 * STEP)  # a text's first waits for its prompt
    assert watcher.observations().lost_s == 0
    for _ in range(8):
        watcher.stepped(STEP)
    watcher.stopped()
    watcher.stepped(1.25 * STEP)
    assert watcher.observations().lost_s == pytest.approx(0.25 * STEP)
    assert watcher.summary().passes == 0
