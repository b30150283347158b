"""Timing several texts together, on the processor: all of them are decoded, and none is left."""

from contextlib import closing
from pathlib import Path

import pytest

import model
from autotune.benchmarking import several_texts
from model.errors import ModelError


def test_every_text_gets_its_tokens_and_leaves(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 5.5])
    monkeypatch.setattr(several_texts, "clock", lambda: next(times))
    with closing(model.load(tiny_model, "cpu")) as engine:
        sequences = engine.runner.open_sequences(3)
        assert several_texts.seconds(sequences, 3, [1, 2, 3, 4, 5], tokens=6) == 2.5
        assert sequences.cache_bytes == 0 and sequences.join([1, 2], 4, model.sampling.Sampler()) is not None


def test_more_texts_than_there_is_room_for(tiny_model: Path) -> None:
    with closing(model.load(tiny_model, "cpu")) as engine:
        sequences = engine.runner.open_sequences(2)
        with pytest.raises(ModelError, match="memory holds 2 texts of 7 tokens, not 3"):
            several_texts.seconds(sequences, 3, [1, 2, 3, 4, 5], tokens=2)
        assert sequences.cache_bytes == 0
