"""A GPU's engine some of whose experts stay with the host, without a GPU: the split, the cut programs and the copies in
Triton's interpreter, against the float32 reference."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from architecture_samples import by_norm

from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.weights import Planes
from kernel_templates.device import Device
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import LIBRARY
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.problem import Problem
from kernel_templates.space import Config
from model.config import ModelConfig
from model.cuda import device_memory, expert_times, forward, host_experts, place_experts
from model.cuda import load as load_model
from model.cuda.execution import EagerExecutor
from model.cuda.expert_times import ExpertTimer
from model.cuda.host_experts import HostExperts, HostMixture
from model.cuda.lazy_configs import LazyConfigs
from model.cuda.load import Loaded
from model.cuda.opening import Opening
from model.cuda.runner import CudaRunner
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import GGUFFile, open_gguf
from model.problems import head_problem, layer_at
from model.reference import reference_logits
from model.runner import Settings
from model.sampling import Sampler
from model.sequences import Sequences
from model.tokenizer import Tokenizer

GPU = Device("cuda", "interpreter", "9.0", 132, 80 << 30)
ROOM = 3.5
"""Layers of experts that there is room for: two of them are the buffers through which the others come."""
BOUND, BOUNDS = 2e-3, by_norm(2e-3, 1e-2)


@dataclass
class Opened:
    path: Path
    runner: CudaRunner

    def off(self, tokens: list[int], stepwise: bool) -> float:
        found, wanted = self.runner.logits(tokens, stepwise), reference_logits(self.path, tokens).numpy()
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def tokens_of(count: int) -> list[int]:
    return np.random.default_rng(count).integers(0, 512, count).tolist()


def opening(file: GGUFFile, memory: int | None) -> CudaRunner:
    config = ModelConfig.from_gguf(file)
    return Opening(file, config, Settings(64, gpu_memory=memory), GPU).proved(EagerExecutor(INTERPRETED))


@pytest.fixture
def quick_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token, once; an interpreted GPU takes longer than the host, which a GPU does not. Passes multiply through the
    library, and attend without splits: what this is not about takes most of the interpreter's time."""
    decide = LazyConfigs._decide

    def quick(self: LazyConfigs, problem: Problem) -> Config:
        if isinstance(problem, Matmul):
            return LIBRARY
        config = decide(self, problem)
        return Config({**config, "splits": 1}) if isinstance(problem, PagedAttention) else config

    monkeypatch.setattr(LazyConfigs, "_decide", quick)
    monkeypatch.setattr(expert_times, "TOKENS", 1)
    monkeypatch.setattr(expert_times, "REPEATS", 1)
    monkeypatch.setattr(ExpertTimer, "on_gpu", lambda self, *_: 0.0)
    monkeypatch.setattr(forward, "CHUNK", 16)


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of the last model that was opened: "beside" its experts, and of a layer's "experts"."""
    found: dict[str, int] = {}
    beside_experts = device_memory.beside_experts

    def watched(model: Any) -> int:
        found["beside"], found["experts"] = beside_experts(model), max(device_memory.of_experts(model).values())
        return found["beside"]

    monkeypatch.setattr(device_memory, "beside_experts", watched)
    return found


@pytest.fixture
def path(make_model: ModuleType, made: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four layers, of which three do not fit ROOM."""
    shape = make_model.SHAPES["tiny-qwen3moe"]
    longer = replace(shape, config=replace(shape.config, sizes=shape.config.sizes * 2))
    monkeypatch.setitem(make_model.SHAPES, "tiny-qwen3moe-4", longer)
    return made("tiny-qwen3moe-4", "Q4_0")


def split(path: Path, needed: dict[str, int], room: float = ROOM) -> Opened:
    """Opened with room for so many layers' experts."""
    file = open_gguf(path)
    opening(file, 1 << 40)
    return Opened(path, opening(file, needed["beside"] + int(room * needed["experts"])))


def test_what_does_not_fit_is_computed_by_the_host(quick_timer: None, needed: dict[str, int], path: Path) -> None:
    opened = split(path, needed)
    placed = opened.runner.experts
    assert placed is not None and placed.on_host == {1, 2, 3}
    assert placed.costs[0].host_s > 0 and placed.copy_s is not None
    document = placed.document()
    assert (document["gpu"]["layers"], document["host"]["layers"]) == ("1", "2-4")
    assert document["host"]["bytes"] == 3 * needed["experts"]
    assert opened.off(tokens_of(1), stepwise=True) < BOUND
    assert [layer.host is None for layer in opened.runner.decoder.model.layers] == [True, False, False, False]
    opened.runner.close()


@pytest.mark.slow
def test_passes_are_computed_by_the_host(quick_timer: None, needed: dict[str, int], path: Path) -> None:
    """11 tokens: a pass of 8 rows, more than the host computes at once, and one of 4 of which one is not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_experts, "MOST", 4)
        patch.setattr(forward, "CHUNK", 8)
        opened = split(path, needed)
        host = opened.runner.decoder.model.layers[1].host
        assert host is not None
        host.host.experts.together_from = dict.fromkeys(host.host.stream_from, 0)
        host.host.stream_from = dict.fromkeys(host.host.stream_from, host_experts.NEVER)
        assert opened.off(tokens_of(11), stepwise=False) < 2 * BOUND  # products of float16
        opened.runner.close()


@pytest.mark.slow
def test_copied_experts_compute_as_those_that_fit(
    quick_timer: None, needed: dict[str, int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three layers through two buffers, in two passes: the last one's copy takes the first one's place."""
    monkeypatch.setattr(forward, "CHUNK", 4)
    opened, file = split(path, needed), open_gguf(path)
    whole = opening(file, 1 << 40)
    assert whole.experts is None
    host = opened.runner.decoder.model.layers[1].host
    assert host is not None
    host.host.stream_from = dict.fromkeys(host.host.stream_from, 1)
    wanted = whole.logits(tokens_of(7), stepwise=False)
    assert (opened.runner.logits(tokens_of(7), stepwise=False) == wanted).all()


def test_a_copy_that_was_broken_off_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the third layer's experts take the place of the first one's."""
    host = HostExperts(cast("Any", SimpleNamespace(problems={})), torch.empty(1, 8), torch.device("cpu"))
    host.stage(8)
    host._held = {layer: torch.full((8,), layer, dtype=torch.uint8) for layer in range(3)}
    host._order = [0, 1, 2]
    host.fetch(0)
    copy = host._copy

    def broken(layer: int) -> None:
        copy(layer)
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "_copy", broken)
    with pytest.raises(KeyboardInterrupt):
        host.fetch(1)
    monkeypatch.undo()
    for layer in range(3):
        host.fetch(layer)
        assert (host.buffer(layer)[:8] == layer).all()


@pytest.mark.slow
def test_text_goes_on_as_with_the_whole_model(quick_timer: None, needed: dict[str, int], path: Path) -> None:
    """One token at a time, and two texts together."""
    file, texts = open_gguf(path), []
    config = ModelConfig.from_gguf(file)
    for runner in (opening(file, 1 << 40), split(path, needed).runner):
        opened = Model(file, config, Tokenizer.from_metadata(file.metadata), runner)
        opened.tokenizer.end_tokens = frozenset()
        alone = list(opened.generate_tokens(tokens_of(2), 2, Sampler()))
        sequences: Sequences = runner.open_sequences(2)
        for count in (1, 2):
            sequences.join(tokens_of(count), 2, Sampler())
        for _ in range(2):
            sequences.send()
        texts.append([alone, sequences.receive(), sequences.receive()])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_timer_runs_the_programs(needed: dict[str, int], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreted GPU is slower, so all experts stay with the host although one layer's would fit."""
    monkeypatch.setattr(expert_times, "TOKENS", 1)
    monkeypatch.setattr(expert_times, "REPEATS", 1)
    placed = split(path, needed).runner.experts
    assert placed is not None and placed.costs[0].gpu_s > placed.costs[0].host_s > 0
    assert placed.on_host == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny-gpt-oss", "tiny-qwen35moe", "tiny-gemma4-mixture"])
def test_every_kind_of_mixture(
    quick_timer: None, needed: dict[str, int], made: Callable[[str, str], Path], shape: str
) -> None:
    """Biases; a shared expert; a network beside the mixture, norms behind and a scale."""
    opened = split(made(shape, "Q4_0"), needed, room=1.5)
    assert opened.runner.experts is not None and opened.runner.experts.on_host == {1}
    assert opened.runner.experts.copy_s is None  # no room for the buffers
    assert opened.off(tokens_of(2), stepwise=True) < BOUNDS[shape]
    assert opened.off(tokens_of(5), stepwise=False) < 2 * BOUNDS[shape]


def test_each_kind_of_layer_keeps_its_own_rows(
    quick_timer: None, needed: dict[str, int], made: Callable[[str, str], Path], path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of formats that ggml's quantizer gives: some layers' down has more bits. The line said is of the slowest copy."""
    kinds: list[Problem] = []

    def nth(*of_each: float) -> Callable[..., float]:
        def timed(self: ExpertTimer, host: HostExperts, layer: int, *_: float) -> float:
            kinds.extend({host.experts.problems[layer]}.difference(kinds))
            return of_each[kinds.index(host.experts.problems[layer])]

        return timed

    monkeypatch.setattr(ExpertTimer, "on_host", lambda self, *_: 1.0)
    monkeypatch.setattr(ExpertTimer, "together_from", nth(2, 16))
    monkeypatch.setattr(ExpertTimer, "copy", nth(3.0, 1.0))
    monkeypatch.setattr(ExpertTimer, "stream_from", nth(8, 4))
    opened = split(made("tiny-qwen3moe-4", "Q4_K_M"), needed, room=3.5).runner
    of_layers = [layer.host for layer in opened.decoder.model.layers if layer.host is not None]
    host = of_layers[0].host
    assert list(host.experts.together_from.values()) == [2, 16]
    assert list(host.stream_from.values()) == [8, 4]
    assert {layer.streamed(4) for layer in of_layers} == {False, True}
    assert opened.experts is not None and (opened.experts.copy_s, opened.experts.stream_from) == (3.0, 8)


def test_memory_that_ends_while_experts_are_timed_is_said_in_one_line(
    quick_timer: None, needed: dict[str, int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ExpertTimer, "on_gpu", full)
    with pytest.raises(ModelError, match="does not hold the experts of one layer, to time them"):
        split(path, needed)

    def refused(size: int, device: torch.device) -> None:
        raise ModelError(f"{size} bytes are not pinned")

    monkeypatch.setattr(place_experts, "pinned", refused)
    with pytest.raises(ModelError, match="bytes are not pinned"):
        split(path, needed)


def test_what_cannot_fit_is_said_in_one_line(path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"needs .* GB of the GPU's memory beside its experts, and may take 0.00"):
        opening(open_gguf(path), 1000)
    with pytest.raises(ModelError, match="has no experts that could stay in host memory"):
        opening(open_gguf(tiny_model), 1000)


def test_what_is_small_against_the_free_memory_is_not_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small with its KV cache: a long context does not fit where a short one does."""
    looked_at, file = [], open_gguf(path)
    config = ModelConfig.from_gguf(file)
    room = 2 * sum(tensor.bytes for tensor in file.tensors.values())
    monkeypatch.setattr(device_memory, "room", lambda *_: room)
    for context in (64, 1 << 20):

        def shapes(context: int = context) -> Loaded:
            looked_at.append(context)
            raise ModelError("looked at")

        with contextlib.suppress(ModelError):
            executor = EagerExecutor(INTERPRETED)
            assert place_experts.place(file, config, Settings(context), lambda _: Config({}), shapes, executor) is None
    assert looked_at == [1 << 20]


def test_experts_that_leave_are_packed_before_the_device_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    file = open_gguf(path)
    config = ModelConfig.from_gguf(file)

    def watched(config: ModelConfig, file: GGUFFile, layer: int, *other: Any) -> LinkedChain:
        packed.append(layer)
        return layer_at(config, file, layer, *other)

    monkeypatch.setattr(load_model, "layer_at", watched)

    def default(problem: Problem) -> Config:
        return registry.cuda_space(problem, GPU).default

    configs, head = (lambda i: default(layer_at(config, file, i, 256))), default(head_problem(config, file))
    load = functools.partial(load_model.load, file, config, 64, configs, head, None, torch.device("meta"))
    kept: list[int] = []

    def keep(layer: int, planes: tuple[Planes, ...]) -> HostMixture:
        kept.append(layer)
        return HostMixture(cast(HostExperts, None), layer, planes[0], planes[1:4], planes[4:])

    progress: list[int] = []
    made = load(lambda done, of: progress.append(done), {i: functools.partial(keep, i) for i in (1, 3)})
    assert (packed, kept, progress) == ([1, 3, 0, 2], [1, 3], [1, 2, 3, 4, 5])
    assert [layer.host and layer.host.layer for layer in made.layers] == [None, 1, None, 3]
