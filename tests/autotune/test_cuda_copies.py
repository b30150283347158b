"""How many copies of its weights a candidate is timed over: what its calls read must not stay in the cache."""

from autotune.runner.cuda_candidate import FEWEST, MOST, copies

L2, PLENTY = 60 << 20, 140 << 30


def test_calls_that_read_all_exceed_the_cache():
    assert copies(10 << 20, 10 << 20, 2 * L2, PLENTY) == 12
    assert copies(1 << 30, 1 << 30, 2 * L2, PLENTY) == FEWEST
    assert copies(1 << 10, 1 << 10, 2 * L2, PLENTY) == MOST


def test_experts_that_a_token_does_not_use_count_for_memory_only():
    """Of 340 MB a call reads the same 24: four copies would stay in a large cache."""
    assert copies(340 << 20, 24 << 20, 2 * L2, PLENTY) == 5
    assert copies(340 << 20, 5 << 20, 2 * L2, PLENTY) == 24
    assert copies(340 << 20, 5 << 20, 2 * L2, 8 << 30) == 6, "a quarter of what is free"
