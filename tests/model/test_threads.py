"""A model on the CPU gives the same bits on every number of threads, changed in the middle of a text too."""

import itertools

import numpy as np
import pytest

import model


@pytest.fixture
def engine(tiny_model):
    opened = model.load(tiny_model, threads=3, context=128)
    yield opened
    opened.close()


def decoded(engine, threads) -> list[np.ndarray]:
    """Logits of 90 steps: attention splits its work over positions by then. threads: the counts, in turn."""
    counts = itertools.cycle(threads)
    engine.runner.decoder.threads.next = lambda: next(counts)
    engine.runner.decoder.threads.record = lambda threads, seconds: None
    return [engine.runner.decoder.step(5 + i % 40, i).copy() for i in range(90)]


def test_logits_do_not_depend_on_the_number_of_threads(engine):
    alone = decoded(engine, [1])
    for threads in ([2], [3], [1, 3, 2]):
        for one, other in zip(alone, decoded(engine, threads), strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_are_chosen_at_every_step(engine):
    """At most those asked for; each step's time is told to the choice."""
    seen = []
    choice = engine.runner.decoder.threads
    record = choice.record
    choice.record = lambda threads, seconds: (seen.append((threads, seconds)), record(threads, seconds))
    list(engine.generate([5, 6, 7, 8, 9], 12))
    assert seen and all(threads in choice.counts and seconds > 0 for threads, seconds in seen)
    assert choice.most == 3


def test_a_long_prompt_chooses_its_threads_anew_for_every_layer(engine, monkeypatch):
    """Those of the first may be chosen beside a process that ends meanwhile; what comes out is the same."""
    runner, tokens, seen = engine.runner, [5 + i % 40 for i in range(100)], []
    pool = runner.decoder.pool
    runner.decoder.threads.by_load = lambda: 2
    alike = runner.prefill.run(tokens, 0)
    counts, run = itertools.cycle([1, 3]), pool.run
    runner.forward.most = 64
    runner.decoder.threads.by_load = lambda: next(counts)
    monkeypatch.setattr(pool, "run", lambda *job, threads: (seen.append(threads), run(*job, threads=threads)))
    np.testing.assert_array_equal(runner.prefill.run(tokens, 0), alike)
    assert seen == ([1, 3] * engine.config.layers)[: 2 * engine.config.layers]
