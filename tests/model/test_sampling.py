"""The sampler: what it may choose, that it is reproducible, that its frequencies are right, and its speed."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.errors import ModelError
from model.sampling import FileSampling, Sampler

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def drawn(logits: np.ndarray, count: int = 300, **settings: Any) -> set[int]:
    picker = Sampler(**({"temperature": 1.0, "seed": 1} | settings)).picker()
    return {picker.pick(logits, i) for i in range(count)}


def test_greedy_takes_the_first_largest() -> None:
    assert Sampler().picker().pick(np.array([1, 3, 3, -np.inf], np.float32), 0) == 1
    assert drawn(LOGITS, temperature=0.0) == {1}
    assert drawn(LOGITS, top_k=1) == {1}


def test_same_seed_same_tokens() -> None:
    logits = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    runs = [
        [p.pick(logits, i) for i in range(50)] for p in (Sampler(0.8, 40, 0.95, seed=s).picker() for s in (7, 7, 8))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_position_s_number_does_not_depend_on_what_was_drawn_before() -> None:
    logits = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    forward, back = (Sampler(1.0, seed=7).picker() for _ in range(2))
    assert [forward.pick(logits, i) for i in range(50)] == [back.pick(logits, i) for i in reversed(range(50))][::-1]


def test_what_top_k_and_top_p_keep() -> None:
    assert drawn(LOGITS) == {0, 1, 2, 3}
    assert drawn(LOGITS, top_k=2) == {1, 3}
    assert drawn(LOGITS, top_k=99) == {0, 1, 2, 3}
    assert drawn(LOGITS, top_p=0.35) == {1}
    assert drawn(LOGITS, top_p=0.6) == {1, 3}
    assert drawn(LOGITS, top_p=0.85) == {1, 2, 3}
    assert drawn(LOGITS, top_k=2, top_p=0.5) == {1}  # 0.4 / 0.7 of what top-k left
    assert drawn(np.array([0, 0, 0, 0], np.float32), top_k=2) == {0, 1}  # ties go to the smaller id


def test_frequencies_are_the_softmax() -> None:
    for temperature in (0.5, 1.0, 2.0):
        expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
        picker = Sampler(temperature, seed=3).picker()
        counts = np.bincount([picker.pick(LOGITS, i) for i in range(4000)], minlength=4) / 4000
        assert np.abs(counts - expected).max() < 0.03


@given(
    hnp.arrays(np.float32, st.integers(1, 600), elements=st.floats(-100, 100, width=32) | st.just(-math.inf)),
    st.integers(0, 700),
    st.floats(0.01, 0.999),
    st.floats(0.01, 5.0),
)
def test_the_nucleus_is_the_definition_s(logits: np.ndarray, top_k: int, top_p: float, temperature: float) -> None:
    if not np.isfinite(logits).any():
        logits[0] = 0
    picker = Sampler(temperature, top_k, top_p, seed=0).picker()
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    allowed = int((np.cumsum(weights)[:-1] < top_p * weights.sum() * (1 - 1e-6)).sum()) + 1
    ids = picker._candidates(logits)
    assert ids.tolist() == order[: len(ids)].tolist()
    assert allowed <= len(ids) and (len(ids) <= allowed + 1 or weights[allowed] < 1e-5)
    assert np.isfinite(logits[picker.pick(logits, 0)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [{"temperature": 1e-320}, {"temperature": 1.0, "top_p": 0.5}])
def test_differences_beyond_all_numbers(settings: dict[str, float]) -> None:
    logits = np.array([-3e38, 3e38, 0], np.float32)
    assert Sampler(**settings, seed=1).picker().pick(logits, 0) == 1


def test_garbage_logits_are_refused() -> None:
    for bad in ([0, math.nan, 1], [math.inf, 0], [-math.inf, -math.inf]):
        for settings in (Sampler(), Sampler(1.0, seed=0)):
            with pytest.raises(ModelError, match="largest logit"):
                settings.picker().pick(np.array(bad, np.float32), 0)
    for shape in ((0,), (2, 3)):
        with pytest.raises(ModelError, match="shape"):
            Sampler().picker().pick(np.zeros(shape, np.float32), 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_k": -1}, "top-k"),
        ({"top_k": 1.5}, "top-k"),
        ({"top_p": 0}, "top-p"),
        ({"top_p": 1.1}, "top-p"),
        ({"top_p": math.nan}, "top-p"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        Sampler(**settings)


@pytest.mark.parametrize(
    ("keys", "settings", "lacking"),
    [
        ({}, {}, ()),
        ({"temp": float(np.float32(0.7)), "top_p": float(np.float32(0.95))}, {"temperature": 0.7, "top_p": 0.95}, ()),
        ({"temp": -1.0, "top_k": -1, "top_p": 1.5}, {"temperature": 0, "top_k": 0, "top_p": 1.0}, ()),
        ({"top_p": 0.0}, {"top_p": 1.0, "top_k": 1}, ()),
        ({"min_p": 0.0, "penalty_repeat": 1.0, "penalty_last_n": 64, "mirostat": 0}, {}, ()),
        ({"penalty_repeat": 1.1, "mirostat": 2}, {}, ("penalty_repeat 1.1", "mirostat 2")),
    ],
)
def test_what_a_file_asks_for(keys: dict[str, Any], settings: dict[str, Any], lacking: tuple[str, ...]) -> None:
    found = FileSampling.from_metadata({f"general.sampling.{key}": value for key, value in keys.items()})
    assert (dict(found.settings), found.lacking) == (settings, lacking)
    Sampler(**found.settings)


@pytest.mark.parametrize(
    "keys", [{"temp": "hot"}, {"top_k": 1.5}, {"top_p": math.nan}, {"temp": math.inf}, {"min_p": []}]
)
def test_forged_sampling_is_one_line(keys: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"general\.sampling"):
        FileSampling.from_metadata({f"general.sampling.{key}": value for key, value in keys.items()})


@pytest.mark.timing
@pytest.mark.parametrize(
    "settings", [Sampler(), Sampler(0.8, 40, 0.95, 1), Sampler(0.8, 0, 0.95, 1), Sampler(1.0, seed=1)]
)
def test_fast_on_a_large_vocabulary(settings: Sampler) -> None:
    logits = np.random.default_rng(0).standard_normal(151936, dtype=np.float32) * 3
    picker, times = settings.picker(), []
    for _ in range(5):
        start = time.perf_counter()
        picker.pick(logits, 0)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
