"""Prefill on a GPU: the expanding kernel of every format at its real speed, long prompts, later chunks."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from kernel_templates import formats, random_inputs
from kernel_templates.cuda import expand, machine, traits, weights
from model import prompt_attention
from model.cuda import prefill
from model.layer_traits import LayerTraits

pytestmark = pytest.mark.gpu

ROWS, COLS = 4096, 4096


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if traits.of_format(name).kind != "f32"])
def test_expanded_values_are_the_format_s(name: str) -> None:
    weight = random_inputs.weight(ROWS, COLS, name, np.random.default_rng(0))
    planes = weights.pack([weight], "cuda")
    out = torch.full((ROWS * COLS + 8,), torch.nan, dtype=expand.dtype(planes), device="cuda")
    launch, target = expand.launch(planes, out), machine.target(machine.detect())
    target = type(target)(pdl=False, asm=target.asm)
    launch.run(target)
    wanted = formats.get(name).dequantize(weight.raw).to(expand.dtype(planes)).float()
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


def test_chunks_change_little(made: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in chunks of 64, whose later ones attend to the cache, gives what one chunk gives."""
    tokens = np.random.default_rng(0).integers(0, 512, 250).tolist()
    with closing(model.load(made("tiny-qwen3", "Q4_0"), "cuda:0")) as engine:
        whole = engine.runner.prefill.run(tokens, 0, every=True)
        monkeypatch.setattr(prefill, "CHUNK", 64)
        chunks = engine.runner.prefill.run(tokens, 0, every=True)
        last = engine.runner.prefill.run(tokens, 0)
    assert float((chunks - whole).norm() / whole.norm()) < 5e-3
    assert torch.equal(last[0], chunks[-1])


@pytest.mark.parametrize("held", [LayerTraits(window=512), LayerTraits(softcap=50.0), LayerTraits(1024, 50.0, 0.1)])
def test_windows_and_soft_caps_of_prompts(held: LayerTraits) -> None:
    """As on the CPU in float32, from float16; memory does not grow with positions times tokens."""
    tokens, first = 700, 1500
    made = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(shape, generator=made).half()
        for shape in ((tokens, 8, 256), (4, first + tokens, 256), (4, first + tokens, 256))
    )
    wanted = prompt_attention.attend(q.float(), k.float(), v.float(), first, held)
    on_gpu = [t.cuda() for t in (q, k, v)]
    found = prompt_attention.attend(*on_gpu, first, held)
    assert found.dtype == torch.float16
    assert float((found.cpu().float() - wanted).norm() / wanted.norm()) < 2e-3
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    prompt_attention.attend(*on_gpu, first, held)
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    print(f"{held}: {(time.perf_counter() - start) * 1e3:.2f} ms, {taken / 1e6:.0f} MB")
    assert taken < 4 * 4 * prompt_attention.SCORES


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "goal"), [("qwen3-0.6b", 29_000), ("qwen3-8b", 10_800)])
def test_speed_of_2048_tokens(made: Callable[[str, str], Path], shape: str, goal: int) -> None:
    """As fast as llama.cpp on an H100; elsewhere only printed. Memory stays near the weights'."""
    tokens = np.random.default_rng(0).integers(0, 151936, 2048).tolist()
    with closing(model.load(made(shape, "Q4_0"), "cuda:0", context=8192)) as engine:
        held = torch.cuda.memory_allocated()
        engine.runner.prefill.run(tokens, 0)
        torch.cuda.reset_peak_memory_stats()
        times = []
        for first in (0, 0, 0, 4096):
            torch.cuda.synchronize()
            start = time.perf_counter()
            engine.runner.prefill.run(tokens, first)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - held
    rates = [2048 / t for t in times]
    print(f"{shape}: {', '.join(f'{r:.0f}' for r in rates)} tok/s (the last after 4096), {peak / 1e9:.2f} GB above")
    assert peak < 3e9
    if "H100" in torch.cuda.get_device_name():
        assert max(rates[:3]) >= goal
