"""Marking operations for a profiler: which ranges are open while each kernel is launched."""

from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("triton")

from kernel_templates.cuda.launch import HOPPER
from model.cuda.execution import EagerExecutor, GraphExecutor, NvtxExecutor
from model.engine import load
from model.errors import ModelError


class Recorded:
    """Stands for a Launch: notes the ranges that are open when it runs."""

    def __init__(self, name, seen, opened):
        self.name, self._seen, self._opened = name, seen, opened

    def run(self, target):
        assert target is HOPPER
        self._seen.append((self.name, tuple(self._opened)))


@pytest.fixture
def opened(monkeypatch):
    """The NVTX ranges that are open, outermost first."""
    stack = []

    @contextmanager
    def span(name):
        stack.append(name)
        yield
        assert stack.pop() == name

    monkeypatch.setattr(torch.cuda.nvtx, "range", span)
    return stack


def test_each_kernel_runs_in_its_operations_range_within_its_token(opened):
    seen = []
    program = NvtxExecutor(0, HOPPER).program([Recorded(name, seen, opened) for name in ("qkv", "attention")])
    assert not seen, "building a program starts nothing"
    program()
    program()
    assert seen == [("qkv", ("token", "qkv")), ("attention", ("token", "attention"))] * 2
    assert not opened


def test_nothing_is_marked_unless_asked_for(opened):
    for executor in (GraphExecutor(0, HOPPER), EagerExecutor(HOPPER)):
        with executor.span("prefill"):
            assert not opened
    with NvtxExecutor(0, HOPPER).span("prefill"):
        assert opened == ["prefill"]


def test_a_processor_has_nothing_to_mark(tiny_model):
    with pytest.raises(ModelError, match="NVTX marks what a GPU runs; give a GPU"):
        load(tiny_model, "cpu", nvtx=True)
