"""One test for each source of a configuration, the order among them, and how near "nearest" is."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_db import keys, open_db
from tuning_db.lookup import nearest_shape
from tuning_db.records import Source

OTHER_SHAPE = "matvec:rows=1536,cols=576,format=Q4_1,residual=1"
FAR_SHAPE = "matvec:rows=49152,cols=576,format=Q4_1,residual=1"
OTHER_FORMAT = "matvec:rows=576,cols=576,format=Q8_0,residual=1"


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "tuning.db") as opened:
        yield opened


def test_exact_beats_everything(db, samples):
    here = samples.device()
    db.set_winner(here, samples.winner(tile=1), None, None)
    db.set_winner(samples.device(numba="0.62"), samples.winner(tile=2, median_ns=1.0), None, None)
    db.set_winner(here, samples.winner(OTHER_SHAPE, tile=3), None, None)
    found = db.lookup(here, samples.key, 1)
    assert found.source is Source.EXACT and found.winner == samples.winner(tile=1)


def test_same_chip_takes_the_newest_and_names_the_difference(db, samples):
    db.set_winner(samples.device(numba="0.59", memory_bytes=4 << 30), samples.winner(tile=1), None, None)
    db.set_winner(samples.device(numba="0.60"), samples.winner(tile=2), None, None)
    db.set_winner(samples.device(), samples.winner(OTHER_SHAPE, tile=3), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.SAME_CHIP and found.winner.config == {"tile": 2}
    assert "numba 0.60 → 0.61" in found.detail and "memory" not in found.detail


def test_nearest_shape_on_this_chip(db, samples):
    for tile, key in enumerate((FAR_SHAPE, OTHER_SHAPE, OTHER_FORMAT)):
        db.set_winner(samples.device(), samples.winner(key, tile=tile), None, None)
    db.set_winner(samples.device("H100"), samples.winner(tile=9), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.NEAREST_SHAPE and found.winner.problem == OTHER_SHAPE
    assert "rows 1536 → 576" in found.detail and "1.41 doublings" in found.detail


def test_another_chip_is_never_an_answer(db, samples):
    db.set_winner(samples.device("H100"), samples.winner(), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.DEFAULT and found.winner is None
    assert found.detail == "tuned only on another chip: chip H100 → Xeon"


def test_another_template_version_is_never_an_answer(db, samples):
    db.set_winner(samples.device(), samples.winner(), None, None)
    found = db.lookup(samples.device(), samples.key, 2)
    assert found.source is Source.DEFAULT
    assert found.detail == "tuned for template version 1, this is version 2"


def test_another_format_is_never_an_answer(db, samples):
    db.set_winner(samples.device(), samples.winner(OTHER_FORMAT), None, None)
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.DEFAULT
    assert found.detail == f"nearest on this chip is {OTHER_FORMAT}: format Q8_0 → Q4_1"


def test_nothing_known_says_so(db, samples):
    found = db.lookup(samples.device(), samples.key, 1)
    assert found.source is Source.DEFAULT and found.detail == "nothing tuned for matvec on this chip"


def test_only_the_current_winner_answers(db, samples):
    for tile in (1, 2):
        db.set_winner(samples.device(), samples.winner(tile=tile), None, None)
    assert db.lookup(samples.device(), samples.key, 1).winner.config == {"tile": 2}


def test_many_problems_at_once_answer_like_one_by_one(db, samples):
    for rows in (64, 576, 4096):
        key = f"matvec:rows={rows},cols=576,format=Q4_1,residual=1"
        db.set_winner(samples.device(numba=str(rows)), samples.winner(key, tile=rows), None, None)
    wanted = [(samples.key, 1), (OTHER_SHAPE, 1), (OTHER_FORMAT, 1), ("ffn:hidden=576", 3)]
    together = db.lookup_all(samples.device(), wanted)
    assert together == {key: db.lookup(samples.device(), key, version) for key, version in wanted}
    assert db.lookup_all(samples.device(), []) == {}


def test_lookups_are_cheap(db, samples):
    wanted = [(f"op{i % 5}:rows={576 * i},format=Q4_1", 1) for i in range(1, 11)]
    for key, _ in wanted:
        for chip in ("Xeon", "EPYC"):
            db.set_winner(samples.device(chip), samples.winner(key), None, None)

    def best_of(count, call):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    with open_db(db.path, readonly=True) as reader:
        one = best_of(20, lambda: reader.lookup(samples.device(), *wanted[0]))
        model = best_of(20, lambda: reader.lookup_all(samples.device(), wanted))
    print(f"one lookup {one * 1e6:.0f} µs, ten at once {model * 1e6:.0f} µs")
    assert one < 1e-3 and model < 5e-3


sizes = st.integers(0, 200_000)
shapes = st.builds("matvec:rows={},cols={},format={}".format, sizes, sizes, st.sampled_from(["Q4_0", "Q8_0"]))


@given(shapes, shapes)
def test_distance_is_symmetric_and_zero_only_for_the_same_problem(one, other):
    there, back = keys.distance(keys.parse(one), keys.parse(other)), keys.distance(keys.parse(other), keys.parse(one))
    assert (there is None) == (one.split("format")[1] != other.split("format")[1])
    if there is not None:
        assert there == pytest.approx(back) and (there == 0) == (one == other)


@given(st.lists(shapes, min_size=1, max_size=6, unique=True), shapes)
def test_nearest_is_the_minimum_over_all_comparable_shapes(samples, tuned, wanted):
    table = [
        {"problem": key, "template_version": 1, "fingerprint": "f", "id": number, "run_id": 1, "created_at": "2026"}
        for number, key in enumerate(tuned)
    ]
    found = nearest_shape(samples.device(), wanted, 1, table)
    away = {key: keys.distance(keys.parse(wanted), keys.parse(key)) for key in tuned}
    comparable = {key: value for key, value in away.items() if value is not None}
    if not comparable:
        assert found is None
    else:
        assert found.source is Source.NEAREST_SHAPE
        assert comparable[found.row["problem"]] == min(comparable.values())


key_like_text = st.text("ab01:=,٣²-", max_size=20)


@given(key_like_text, key_like_text)
def test_any_text_is_a_key(one, other):
    first, second = keys.parse(one), keys.parse(other)
    assert keys.distance(first, first) == 0
    assert keys.differences(first, first) == ""
    keys.distance(first, second)
    keys.differences(first, second)
