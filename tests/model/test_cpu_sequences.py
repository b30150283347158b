"""Texts at once on the CPU: what their caches take of memory, and what is refused for it."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import model
from kernel_templates import memory
from model import engine
from model.cpu import sequences as cpu_sequences
from model.cpu import text_state
from model.cpu.forward import Forward
from model.cpu.sequences import SHARE, CpuSequences
from model.errors import ModelError
from model.sampling import Sampler

GREEDY = Sampler()


@pytest.fixture(scope="module")
def opened(tiny_qwen3: Path) -> Iterator[engine.Model]:
    opened = model.load(tiny_qwen3, context=256)
    yield opened
    opened.close()


def tile_bytes(opened: engine.Model) -> int:
    """Of 64 positions: keys and values of every layer in float16."""
    config = opened.config
    return 64 * 2 * 2 * sum(sizes.kv_rows for sizes in config.sizes)


def test_a_cache_takes_what_is_written(opened: engine.Model) -> None:
    tile, sequences = tile_bytes(opened), CpuSequences(opened.runner, 4)
    assert sequences.cache_bytes == 0
    first = sequences.join([1] * 60, 100, GREEDY)
    assert sequences.cache_bytes == tile
    second = sequences.join([1] * 65, 1, GREEDY)
    assert sequences.cache_bytes == 3 * tile
    for _ in range(6):  # the first token of a text is not written before the second is wanted
        sequences.send()
    assert sequences.cache_bytes == 4 * tile
    sequences.leave(first)
    assert sequences.cache_bytes == 2 * tile
    sequences.leave(second)
    assert sequences.cache_bytes == 0


def test_what_is_promised_is_kept_free(opened: engine.Model) -> None:
    tile = tile_bytes(opened)
    sequences = CpuSequences(opened.runner, 4, limit=3 * tile)
    with pytest.raises(ModelError, match=r"a text of 193 tokens needs .* MB of KV cache, and there are"):
        sequences.join([1] * 3, 190, GREEDY)
    first = sequences.join([1] * 3, 125, GREEDY)
    assert first is not None and sequences.join([1] * 3, 62, GREEDY) is None
    second = sequences.join([1] * 3, 61, GREEDY)
    assert second == first + 1 and sequences.join([1], 1, GREEDY) is None
    sequences.leave(second)
    assert sequences.join([1], 1, GREEDY) == second + 1, "a number is given once"


def test_no_more_texts_than_asked_for(opened: engine.Model) -> None:
    sequences = CpuSequences(opened.runner, 2)
    assert [sequences.join([1], 1, GREEDY) for _ in range(3)] == [0, 1, None]


def test_no_more_texts_than_a_pass_has_rows(opened: engine.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened.runner, "forward", Forward(opened.runner.decoder, most=4))
    prompts = [[5, 6, 7 + i] for i in range(6)]
    ends = [piece.end for piece in opened.generate_many(prompts, 3, most=1024) if piece.end]
    assert len(ends) == 6 and not any(end.error for end in ends)


def test_what_a_text_kept_is_freed_when_it_leaves(opened: engine.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it does: at its end, or in the middle of its prompt."""
    kept: list[weakref.ref] = []

    def allocate(*arguments):
        states = text_state.allocate(*arguments)
        kept.extend(weakref.ref(array) for layer in states for array in layer.values())
        return states

    monkeypatch.setattr(cpu_sequences, "text_state", SimpleNamespace(allocate=allocate, size=text_state.size))
    sequences = CpuSequences(opened.runner, 2)
    joined = [sequences.join([1] * 9, 1, GREEDY) for _ in range(2)]
    monkeypatch.setattr(opened.runner.decoder, "predict", None)
    sequences.leave(joined[0])
    with pytest.raises(TypeError):
        sequences.join([1] * 9, 1, GREEDY)
    sequences.leave(joined[1])
    gc.collect()
    assert kept and not any(reference() is not None for reference in kept)


def test_the_limit_follows_the_memory_that_is_free(opened: engine.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked anew whenever no text is there: a program may hold a model for days."""
    tile, sequences = tile_bytes(opened), CpuSequences(opened.runner, 8)
    for tiles in (2, 1):
        monkeypatch.setattr(memory, "available", lambda tiles=tiles: int((tiles + 0.5) * tile / SHARE))
        joined = [sequences.join([1], 1, GREEDY) for _ in range(tiles)]
        assert None not in joined and sequences.join([1], 1, GREEDY) is None
        for number in joined:
            sequences.leave(number)


def test_steps_are_received_in_order_and_texts_may_leave_before(opened: engine.Model) -> None:
    sequences = CpuSequences(opened.runner, 2)
    alone = list(opened.generate_tokens([5, 6], 3, GREEDY, ignore_end=True))
    text = sequences.join([5, 6], 3, GREEDY)
    for _ in range(3):
        sequences.send()
    sequences.leave(text)
    assert [sequences.receive() for _ in range(3)] == [{text: token} for token in alone]


def test_available_memory_is_the_containers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = memory.available()
    assert whole > 0
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    for name, content in {"max": "1000\n", "current": "700\n", "stat": "anon 1\ninactive_file 50\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert memory.available() == 350
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.available() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 1000
    (tmp_path / "memory.max").unlink()
    assert memory.available() > 1000
