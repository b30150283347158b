"""Passes over many rows on a GPU: prompts against decode steps, every bucket, chunks, memory and speed."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_samples import TINY, by_norm
from near_ties import settled

import model
from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, machine, weights
from kernel_templates.cuda.pages import PAGE, PagedCache
from model.cuda import delta_states
from model.cuda import forward as passes
from model.cuda.forward import Forward
from model.engine import Model
from model.reference import reference_logits
from model.sampling import Sampler
from model.widths import PassSize

pytestmark = pytest.mark.gpu

Made = Callable[[str, str], Path]
ROWS, COLS = 4096, 4096
BOUNDS = by_norm(2e-3, 1e-2)


def tokens_of(count: int, vocab: int = 512, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def opened(made: Made) -> Iterator[Model]:
    with closing(model.load(made("tiny-qwen3", "Q4_0"), "cuda:0")) as engine:
        yield engine


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_expanded_values_are_the_format_s(name: str) -> None:
    weight = random_inputs.weight(ROWS, COLS, name, np.random.default_rng(0))
    planes = weights.pack([weight], "cuda")
    out = torch.full((ROWS * COLS + 8,), torch.nan, dtype=torch.float16, device="cuda")
    launch, target = expand.launch(planes, out), machine.target(machine.detect())
    target = type(target)(pdl=False, asm=target.asm)
    launch.run(target)
    wanted = formats.get(name).dequantize(weight.raw).half().float()
    found = out[:-8].view(ROWS, COLS).cpu().float()
    assert ((found - wanted).abs() <= wanted.abs() * 2**-10 * planes.traits.minimum).all()  # its sum may be fused
    assert out[-8:].isnan().all()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        launch.run(target)
    end.record()
    torch.cuda.synchronize()
    us = start.elapsed_time(end) / 20 * 1e3
    print(f"{name}: {us:.0f} us, {(planes.nbytes + 2 * ROWS * COLS) / us / 1e3:.0f} GB/s")


@pytest.mark.parametrize("shape", TINY)
def test_a_prompt_is_its_decode_steps(made: Made, shape: str) -> None:
    path = made(shape, "Q4_0")
    tokens = settled(path, 100)
    with closing(model.load(path, "cuda:0")) as engine:
        steps, whole = (torch.from_numpy(engine.logits(tokens, stepwise=way)) for way in (True, False))
    print(f"{shape}: {distance(whole, steps):.2g}")
    assert distance(whole, steps) < 2 * BOUNDS[shape]


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 9, 16, 31, 64, 65, 200])
def test_every_bucket_gives_what_steps_give(opened: Model, count: int) -> None:
    """Also in the cache: a step after it, at the next position."""
    forward, decoder, tokens = opened.runner.forward, opened.runner.decoder, tokens_of(count + 1, seed=count)
    opened.reset()
    for i, token in enumerate(tokens[:-1]):
        wanted = decoder.step(token, i).clone()
    following = decoder.step(tokens[-1], count).clone()
    for kept in (c.values for c in forward.model.cache):
        kept.fill_(3.0)  # what an earlier conversation left
    found = decoder.predict(forward.read(tokens[:-1], 0)[0], count - 1).clone()
    assert distance(found, wanted) < 1e-2
    assert distance(decoder.step(tokens[-1], count), following) < 1e-2
    assert all(
        (kept[:, :, count + 1 :] == 3.0).all() for kept in (c.values for c in forward.model.cache)
    )  # rows that are not used leave it alone


def test_chunks_change_little(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in chunks of 64, whose later ones attend to the cache, gives what one chunk gives."""
    tokens, path = tokens_of(250), made("tiny-qwen3", "Q4_0")
    with closing(model.load(path, "cuda:0")) as engine:
        whole = engine.runner.forward.read(tokens, 0, every=True)
    monkeypatch.setattr(passes, "CHUNK", 64)
    with closing(model.load(path, "cuda:0")) as engine:
        chunks = engine.runner.forward.read(tokens, 0, every=True)
        last = engine.runner.forward.read(tokens, 0)
    assert distance(chunks, whole) < 5e-3
    assert torch.equal(last[0], chunks[-1])


def test_expanding_beside_products_changes_nothing(opened: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BESIDE_FROM", 2)
    plain, tokens = opened.runner.forward, tokens_of(70)
    beside = Forward(plain.model, plain.cache, plain.configs, plain.executor, beside=True)
    for count in (5, 70):
        wanted = plain.read(tokens[:count], 0, every=True)
        for _ in range(3):
            assert torch.equal(beside.read(tokens[:count], 0, every=True), wanted)


def test_texts_of_unlike_lengths_in_one_pass(made: Made) -> None:
    """Each in pages of its own; logits of every row, against the reference's."""
    path = made("tiny-gemma2", "Q4_0")
    with closing(model.load(path, "cuda:0")) as engine:
        alone, layers, s = engine.runner.forward, engine.config.layers, engine.config.layer(0)
        memory = torch.zeros(8, layers, 2, s.kv_heads, PAGE, s.head_dim, dtype=torch.float16, device="cuda")
        table, (layer, *strides) = torch.randperm(8).view(4, 2).cuda() * memory[0].numel(), memory.stride()[1:4]
        states = delta_states.of_layers(engine.config.sizes, 4, torch.device("cuda"))
        forward = alone.over([PagedCache(memory, table, i * layer, *strides) for i in range(layers)], states)
        texts = {0: tokens_of(3, seed=1), 1: tokens_of(71, seed=2), 3: tokens_of(6, seed=3)}
        for text, tokens in texts.items():
            forward.read(tokens[:-1], 0, text)
        rows = [(texts[t][-1], len(texts[t]) - 1, t) if t in texts else (0, -1, 0) for t in range(4)]
        forward.start(PassSize(4, 1, forward.bound(70), head=True), *zip(*rows, strict=True))
        found = forward.logits(4).cpu()
        assert found.isfinite().all() and not any(kept.values.any() for kept in alone.model.cache)
    for text, tokens in texts.items():
        assert distance(found[text], reference_logits(path, tokens)[-1]) < 1e-2


def test_a_long_prompt_goes_on(opened: Model) -> None:
    """Greedy text after a prompt is that after the prompt's halves."""
    prompt = tokens_of(100, seed=5)
    opened.reset()
    whole = list(opened.generate_tokens(prompt, 8, Sampler(), ignore_end=True))
    opened.reset()
    list(opened.generate_tokens(prompt[:50], 1, Sampler(), ignore_end=True))
    assert list(opened.generate_tokens(prompt, 8, Sampler(), ignore_end=True)) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "goal"), [("qwen3-0.6b", 100_000), ("qwen3-8b", 30_000)])
def test_speed_of_2048_tokens(made: Made, shape: str, goal: int) -> None:
    """On an H100 or H200; elsewhere only printed. A chunk takes no memory beyond what is there."""
    tokens = tokens_of(2048, 151936)
    with closing(model.load(made(shape, "Q4_0"), "cuda:0", context=8192)) as engine:
        forward = engine.runner.forward
        for first in (0, 4096):
            forward.read(tokens, first)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held, times = torch.cuda.memory_allocated(), []
        for first in (0, 0, 0, 4096):
            torch.cuda.synchronize()
            start = time.perf_counter()
            forward.read(tokens, first)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - held
    rates = [2048 / t for t in times]
    print(f"{shape}: {', '.join(f'{r:,.0f}' for r in rates)} tok/s (the last after 4096), {peak / 1e6:.1f} MB above")
    assert peak < 1e6
    if any(chip in torch.cuda.get_device_name() for chip in ("H100", "H200")):
        assert max(rates[:3]) >= goal
