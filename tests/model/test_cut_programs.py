"""Programs with cuts on a GPU, whose graphs a stand-in records: what is captured together, and in which order it
runs."""

from typing import Any

import pytest

from kernel_templates.cuda.launch import HOPPER
from model.cuda import execution
from model.cuda.execution import Cut, GraphExecutor


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ran: the launches of a graph, or a cut's word."""
    done: list[Any] = []

    class Recorded:
        def __init__(self, launches: Any, *_: Any) -> None:
            self.replay = lambda: done.append(tuple(launches))

    monkeypatch.setattr(execution, "Graph", Recorded)
    monkeypatch.setattr(execution.torch.cuda, "Stream", lambda device: None)
    return done


@pytest.mark.parametrize(
    ("launches", "wanted"),
    [
        ("ab", [("a", "b")]),
        ("ab|c", [("a", "b"), "|", ("c",)]),
        ("|a||b|", ["|", ("a",), "|", "|", ("b",), "|"]),
        ("|", ["|"]),
    ],
)
def test_each_stretch_is_a_graph(ran: list[Any], launches: str, wanted: list[Any]) -> None:
    made: list[Any] = [Cut("cut", lambda: ran.append("|")) if name == "|" else name for name in launches]
    program = GraphExecutor(0, HOPPER).program(made)
    assert ran == []
    program()
    assert ran == wanted
    program()
    assert ran == 2 * wanted
