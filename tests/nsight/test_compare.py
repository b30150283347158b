"""Better, worse or noise: on made-up samples, and on an H100's."""

import json
from collections import Counter

import numpy as np
import pytest

from autotune.nsight.compare import Verdict, compare


def independent(draw, size):
    return draw.lognormal(0, 0.02, size), draw.lognormal(0, 0.02, size)


def drifting(draw, size):
    """Taken in turn while the clock wanders."""
    both = np.exp(np.cumsum(draw.normal(0, 0.004, 2 * size)) + draw.normal(0, 0.01, 2 * size))
    return both[0::2], both[1::2]


def spiky(draw, size):
    def one():
        return draw.lognormal(0, 0.01, size) * np.where(draw.random(size) < 0.1, 1.5, 1.0)

    return one(), one()


@pytest.mark.parametrize("made", [independent, drifting, spiky])
@pytest.mark.parametrize("in_turn", [True, False])
def test_the_same_against_itself_is_noise(made, in_turn):
    draw = np.random.default_rng(0)
    verdicts = Counter(compare(*made(draw, 20), in_turn).verdict for _ in range(100))
    assert verdicts[Verdict.NOISE] >= 95


def test_a_difference_is_told_with_its_interval():
    draw = np.random.default_rng(0)
    for _ in range(20):
        one, other = independent(draw, 20)
        slower, faster = compare(one, other * 1.1), compare(one * 1.1, other)
        assert slower.verdict is Verdict.WORSE and slower.low < 1.1 < slower.high * 1.02
        assert faster.verdict is Verdict.BETTER and faster.low <= faster.ratio <= faster.high < 1


def test_the_same_input_gives_the_same_answer():
    one, other = independent(np.random.default_rng(0), 20)
    assert compare(one, other) == compare(list(one), list(other))


@pytest.mark.parametrize(("sizes", "in_turn"), [((4, 20), False), ((20, 19), True)])
def test_too_few_samples(sizes, in_turn):
    with pytest.raises(ValueError, match="samples"):
        compare(np.ones(sizes[0]), np.ones(sizes[1]), in_turn)


def test_an_h100s_kernel_against_itself_and_against_its_winner(recorded):
    """100 pairs of one kernel, captured twice: the two captures differ by 2 % throughout, which is noise as well."""
    times = json.loads(recorded("aa.json").read_text())
    same = Counter(compare(*pair, in_turn=True).verdict for pair in times["default against default"])
    assert same.total() == 100 and same[Verdict.NOISE] >= 95
    tuned = Counter(compare(*pair, in_turn=True).verdict for pair in times["default against winner"])
    assert tuned == {Verdict.BETTER: 20}
