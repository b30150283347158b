"""Which layers' experts come to the GPU, by made-up costs."""

import math

import pytest

from model.expert_placement import ExpertCost, ExpertPlacement, layers_of, layers_on_host, ranges


def cost(nbytes: int = 10, saved_us: float = 100.0) -> ExpertCost:
    return ExpertCost(nbytes, 10e-6, (10 + saved_us) * 1e-6)


def test_equal_layers_fill_the_room_from_the_first_on() -> None:
    costs = {layer: cost() for layer in range(6)}
    assert layers_on_host(costs, 40) == {4, 5}
    assert layers_on_host(costs, 39) == {3, 4, 5}
    assert layers_on_host(costs, 0) == set(range(6))
    assert layers_on_host(costs, 60) == set()


def test_what_saves_most_for_its_size_comes_first() -> None:
    """The large layer saves more, but not for its size; behind it a smaller one still fits."""
    costs = {0: cost(30, 120.0), 1: cost(10, 80.0), 2: cost(10, 90.0), 3: cost(5, 10.0)}
    assert layers_on_host(costs, 25) == {0}
    assert layers_on_host(costs, 24) == {0, 3}


def test_a_layer_that_the_host_computes_faster_stays_there() -> None:
    costs = {0: cost(), 1: cost(10, -1.0), 2: cost(10, 0.0)}
    assert layers_on_host(costs, 1000) == {1, 2}


@pytest.mark.parametrize(("layers", "text"), [([], ""), ([0], "1"), ([0, 1, 2], "1-3"), ([4, 0, 2, 5], "1, 3, 5-6")])
def test_layers_as_people_count_them(layers: list[int], text: str) -> None:
    assert ranges(layers) == text and layers_of(text) == len(layers)


def test_the_document_has_what_was_measured() -> None:
    costs = {0: ExpertCost(10, 10e-6, 200e-6), 1: ExpertCost(20, 30e-6, 400e-6)}
    found = ExpertPlacement(costs, frozenset({1}), copy_s=6e-3, stream_from=64).document()
    assert found["gpu"] == {"layers": "1", "bytes": 10, "token_us": pytest.approx(20.0)}
    assert found["host"] == {"layers": "2", "bytes": 20, "token_us": pytest.approx(300.0)}
    assert found["copy_ms"] == pytest.approx(6.0) and found["copied_from_rows"] == 64
    never = ExpertPlacement(costs, frozenset({1}), copy_s=6e-3, stream_from=math.inf).document()
    assert never["copied_from_rows"] is None
    assert ExpertPlacement(costs, frozenset({0, 1})).document()["copy_ms"] is None
