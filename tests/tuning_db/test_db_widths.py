"""How a lookup borrows between problems of unlike numbers of tokens at once."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import keys, open_db
from tuning_db.records import Source


def product(tokens: int, rows: int = 576, form: str = "Q4_0") -> str:
    return f"matmul:rows={rows},cols=576,format={form},tokens={tokens}"


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


def test_a_product_borrows_from_the_next_bucket_of_its_own_shape(db, samples):
    for tile, key in enumerate((product(16), product(64), product(64, rows=2304), product(64, form="Q8_0"))):
        db.set_winner(samples.device(), samples.winner(key, tile=tile), None, None)
    found = {tokens: db.lookup(samples.device(), product(tokens), 1) for tokens in (32, 128)}
    assert {t: f.winner.problem for t, f in found.items()} == {32: product(16), 128: product(64)}
    assert all(f.source is Source.NEAREST_SHAPE for f in found.values())
    assert "tokens 16 → 32" in found[32].detail
    assert db.lookup(samples.device(), product(64), 1).source is Source.EXACT


@pytest.mark.parametrize("tokens", [2, 4, 8, 256, 2048])
def test_further_away_the_default_is_the_better_guess(db, samples, tokens):
    for tuned in (16, 64):
        db.set_winner(samples.device(), samples.winner(product(tuned)), None, None)
    found = db.lookup(samples.device(), product(tokens), 1)
    assert found.source is Source.DEFAULT and found.winner is None
    assert found.detail == f"nearest on this chip is {product(16)}: tokens 16 → {tokens}"


def test_another_shape_of_as_many_tokens_is_nearer_than_its_own_of_many_more(db, samples):
    db.set_winner(samples.device(), samples.winner(product(256)), None, None)
    db.set_winner(samples.device(), samples.winner(product(16, rows=2304), tile=5), None, None)
    found = db.lookup(samples.device(), product(16), 1)
    assert found.winner.problem == product(16, rows=2304)


def test_texts_count_as_tokens_do(db, samples):
    key = "paged_attention:sequences={},tokens={},heads=9,kv_heads=3,head_dim=64,context={}".format
    db.set_winner(samples.device(), samples.winner(key(16, 1, 640)), None, None)
    assert db.lookup(samples.device(), key(32, 1, 640), 1).source is Source.NEAREST_SHAPE
    assert db.lookup(samples.device(), key(16, 1, 5120), 1).source is Source.NEAREST_SHAPE, "contexts are as before"
    for far in (key(8, 1, 640), key(64, 1, 640), key(1, 16, 640)):
        assert db.lookup(samples.device(), far, 1).source is Source.DEFAULT


def test_few_tokens_borrow_from_as_many_of_a_shape_that_is_near(db, samples):
    """What was best for 16 is another algorithm, and a small matrix says nothing of a vocabulary's."""
    for tokens in (4, 16):
        db.set_winner(samples.device(), samples.winner(product(tokens, rows=2304), tile=tokens), None, None)
    found = {rows: db.lookup(samples.device(), product(4, rows=rows), 1) for rows in (1152, 9216, 49152)}
    assert [f.winner and f.winner.config["tile"] for f in found.values()] == [4, 4, None]
    assert db.lookup(samples.device(), product(8, rows=2304), 1).source is Source.DEFAULT
    assert db.lookup(samples.device(), product(16, rows=49152), 1).source is Source.DEFAULT


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12))
def test_a_borrowed_winner_is_at_most_a_doubling_away(samples, tuned, wanted):
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "t.db") as db:
        db.set_winner(samples.device(), samples.winner(product(1 << tuned)), None, None)
        found = db.lookup(samples.device(), product(1 << wanted), 1)
    near = tuned == wanted or (abs(tuned - wanted) == 1 and min(tuned, wanted) >= 4)
    assert (found.winner is not None) == near


def test_places_of_the_sizes_that_count_tokens():
    assert keys.widths(product(8)) == [2] and keys.widths("matvec:rows=1,cols=2") == []
    assert keys.widths("paged_attention:sequences=1,tokens=2,heads=3") == [0, 1]
