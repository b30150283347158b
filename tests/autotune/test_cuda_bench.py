"""`autotune bench` for a GPU, without one: a stand-in engine whose tokens take made-up time, and the tables."""

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotune.benchmarking import benchmark_result, cuda_backend, model_benchmark, several_texts, token_time
from autotune.benchmarking.benchmark_result import Decode, KernelTime, ModelBenchmark, Side
from autotune.runner import ceilings
from kernel_templates.attention.problem import Attention
from kernel_templates.cuda import machine
from kernel_templates.device import Device
from kernel_templates.head.problem import Head
from kernel_templates.layer.problem import Layer
from kernel_templates.operation import Work
from model.cuda.execution import Cut
from model.errors import ModelError
from model.expert_placement import ExpertCost, ExpertPlacement
from model.sequences import Sequences
from tuning_db import open_db

READ = 1000.0  # GB/s
LAYER = Layer(64, 4, 2, 16, 16, 0, 128, *["Q4_0"] * 7, "int16", 0)
HEAD = Head(512, 64, "Q8_0", "int16")
STEP_US = {"untuned": 200.0, "tuned": 100.0}
PROMPT_US = 10.0


def matrix() -> SimpleNamespace:
    return SimpleNamespace(tensors=(torch.zeros(900, dtype=torch.int8), torch.zeros(50, dtype=torch.float16)))


def launch(name: str, *matrices: SimpleNamespace) -> SimpleNamespace:
    """As a kernel is launched: with each matrix's planes, among other things."""
    planes = [tensor for m in matrices for tensor in (*m.tensors, m.tensors[0])]
    return SimpleNamespace(name=name, arguments=(torch.zeros(8), *planes, 7, 1e-6))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now * 1e-6


@dataclass
class FakeEngine:
    """Two layers, 1,000 bytes of weights in each matrix; a step takes STEP_US, longer after more tokens."""

    clock: Clock
    side: str
    context: int
    cached: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    closed: bool = False
    load_s: float = 1.5

    def __post_init__(self) -> None:
        layers = [
            SimpleNamespace(problem=LAYER, mixture=None, host=None, planes=[matrix() for _ in range(5)])
            for _ in range(2)
        ]
        self.tokenizer = SimpleNamespace(encode=lambda text: [1, 2, 3])
        self.choices: dict = {LAYER: SimpleNamespace(source=SimpleNamespace(value="exact"))}
        decoder = SimpleNamespace(
            model=SimpleNamespace(layers=layers, head=HEAD), context=self.context, launches=self.launches,
            buffers={"position": torch.zeros(1, dtype=torch.int32)}, executor=SimpleNamespace(target=None),
        )  # fmt: skip
        self.runner = SimpleNamespace(
            decoder=decoder, experts=None, warm_up=lambda: None, open_sequences=lambda most: FakeSequences(self, most)
        )

    def launches(self, part: str, bound: int) -> list[Any]:
        if part != "layers":
            return [launch({"head": "head", "greedy": "pick"}[part])]
        made = []
        for qkv, out, gate, up, down in (layer.planes for layer in self.runner.decoder.model.layers):
            made += [launch("qkv", qkv), launch("attention"), *[launch("attention_combine")] * (bound > 160)]
            made += [launch("out", out), launch("gate_up", gate, up), launch("down", down)]
        return made

    def reset(self) -> None:
        self.cached = []

    def generate_tokens(self, prompt: list[int], tokens: int, sampler: Any, ignore_end: bool = False) -> Iterator[int]:
        assert ignore_end and sampler.temperature == 0
        new = len(prompt) - len(self.cached)
        self.clock.now += PROMPT_US * new if new > 1 else STEP_US[self.side] + len(prompt) / 100
        self.cached = prompt[:-1]
        self.steps.append(tokens)
        for i in range(min(tokens, self.context - len(prompt))):
            self.clock.now += (STEP_US[self.side] + len(prompt) / 100) * (i > 0)
            yield i

    def close(self) -> None:
        self.closed = True


class FakeSequences(Sequences):
    """A step takes STEP_US and a microsecond for each text; joining takes PROMPT_US a token. At most `room` fit."""

    room = 100

    def __init__(self, engine: FakeEngine, most: int) -> None:
        self.engine, self.most, self.context = engine, most, engine.context
        self.texts: list[int] = []
        self.number = 0
        self.sent: deque[dict[int, int]] = deque()

    def join(self, prompt: Sequence[int], tokens: int, sampler: Any) -> int | None:
        if len(self.texts) == min(self.most, self.room):
            return None
        self.engine.clock.now += PROMPT_US * len(prompt)
        self.number += 1
        self.texts.append(self.number)
        return self.number

    def send(self) -> None:
        assert len(self.sent) < self.ahead
        self.engine.clock.now += STEP_US[self.engine.side] + len(self.texts)
        self.sent.append(dict.fromkeys(self.texts, 5))

    def receive(self) -> dict[int, int]:
        return self.sent.popleft()

    def leave(self, text: int) -> None:
        self.texts.remove(text)

    @property
    def cache_bytes(self) -> int:
        return 0


class FakeWatch:
    def __init__(self, index: int, target: Any) -> None:
        assert index == 0

    def repeated(self, launches: list[Any], rewind: Callable[[], None]) -> list[float]:
        rewind()
        return [20.0, 19.0, 21.0]

    def from_memory(self, launches: list[Any], rewind: Callable[[], None]) -> list[float]:
        return [4.0 * len(launches)] * 3

    def microseconds(self, work: list[Any], rewind: Callable[[], None]) -> list[float]:
        """work: a program as `with_host` makes it."""
        return [30.0 * len(work)] * 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The stand-in machine: loaded engines in order, free memory, the model's own context."""
    here = SimpleNamespace(engines=[], free=80 << 30, trained=8192)
    clock = Clock()
    device = Device("cuda", "Fake 100", "9.0", 132, 80 << 30, (("driver", "1"),))

    def load(
        path: Path, device: str, *, db: Any, tuned: bool, context: int, nvtx: bool, gpu_memory: Any, cache: str
    ) -> FakeEngine:  # fmt: skip
        here.cache = cache
        side = "tuned" if tuned else "untuned"
        here.engines.append(FakeEngine(clock, side, min(context, here.trained)))
        return here.engines[-1]

    monkeypatch.setattr(model_benchmark.model, "load", load)
    monkeypatch.setattr(model_benchmark, "clock", clock)
    monkeypatch.setattr(several_texts, "clock", clock)
    monkeypatch.setattr(token_time, "Stopwatch", FakeWatch)
    monkeypatch.setattr(machine, "detect", lambda index=0: device)
    monkeypatch.setattr(machine, "l2_bytes", lambda index=0: 50 << 20)
    monkeypatch.setattr(machine, "check", lambda index=0: None)
    monkeypatch.setattr(ceilings, "known_or_measured", lambda *_, **__: {"read_gb_s": READ})
    reads = itertools.cycle([90e-6, 80e-6, 125e-6])
    probe = SimpleNamespace(nbytes=8e7, seconds=lambda: next(reads))
    monkeypatch.setattr(cuda_backend, "ReadProbe", lambda index: probe)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (here.free, 80 << 30))
    return here


@pytest.fixture
def bench(gpu: SimpleNamespace, tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(**settings: Any) -> dict[str, Any]:
        with open_db(tmp_path / "bench.db") as db:
            return model_benchmark.benchmark(tiny_model, db, "cuda:0", **settings).document()

    return run


def test_rates_are_those_of_whole_calls(bench, gpu) -> None:
    report = bench(runs=3)
    json.dumps(report)
    assert [e.side for e in gpu.engines] == ["untuned", "tuned"] and all(e.closed for e in gpu.engines)
    assert report["settings"] == {
        "prompt": 2048, "tokens": 128, "runs": 3, "alternating": True, "nvtx": False,
        "captured_alone": True, "cache_bytes": 50 << 20, "text_prompt": 128, "text_tokens": 128,
    }  # fmt: skip
    for side, us in STEP_US.items():
        assert report[side]["prefill_tok_s"] == pytest.approx(1e6 / PROMPT_US)
        shallow, deep = report[side]["decode"]["0"], report[side]["decode"]["4096"]
        assert shallow["tok_s"] == pytest.approx(1e6 / (us + 0.01)) and deep["tok_s"] == pytest.approx(
            1e6 / (us + 40.96)
        )
        assert shallow["tok_s_range"] == pytest.approx([shallow["tok_s"]] * 2)
        assert shallow["kernels_per_token"] == 2 * 5 + 2 and deep["kernels_per_token"] == 2 * 6 + 2
        extra = deep["bytes_per_token"] - shallow["bytes_per_token"]
        assert extra == 2 * 4095 * 4 * 2 * 16  # two layers, keys and values in float16
        assert shallow["share"] == pytest.approx(shallow["bytes_per_token"] * shallow["tok_s"] / 1e9 / READ)
    assert report["sources"] == {LAYER.key: "exact"}
    # One turn to warm up and three that count: a prefill and 4 prompts more, then at each depth a token and 128 more.
    assert Counter(gpu.engines[0].steps) == {1: 4 * 5, 129: 4 * 2}


def test_many_tokens_at_once(bench, gpu) -> None:
    report = bench(runs=3, depths=(0,))
    for side, us in STEP_US.items():
        assert list(report[side]["prompts"]) == ["16", "64", "256", "512"]
        assert all(row["tok_s"] == pytest.approx(1e6 / PROMPT_US) for row in report[side]["prompts"].values())
        batches = report[side]["batches"]
        assert {texts: row["tok_s"] for texts, row in batches.items()} == {
            "8": pytest.approx(8e6 / (us + 8)), "32": pytest.approx(32e6 / (us + 32))
        }  # fmt: skip
    assert list(report["speedups"]) == [
        "prefill", "prompt 16", "prompt 64", "prompt 256", "prompt 512", "0", "batch 8", "batch 32"
    ]  # fmt: skip
    assert report["speedups"]["batch 8"]["median"] == pytest.approx(208 / 108)
    assert report["speedups"]["batch 8"]["verdict"] == "tuned 1.93× untuned (1.93 to 1.93 in 3 rounds)"
    only = bench(runs=1, depths=(0,), widths=("decode",))
    assert not only["tuned"]["prompts"] and not only["tuned"]["batches"] and list(only["speedups"]) == ["prefill", "0"]
    assert bench(runs=1, depths=(0,), prompt=64)["tuned"]["prompts"].keys() == {"16", "256", "512", "2048"}


def test_texts_that_memory_does_not_hold_are_told(bench, gpu, monkeypatch) -> None:
    monkeypatch.setattr(FakeSequences, "room", 20)
    with pytest.raises(ModelError, match="memory holds 20 texts of 256 tokens, not 32"):
        bench(runs=1, depths=(0,))


def test_a_device_that_decodes_one_text_at_a_time(bench, gpu, monkeypatch) -> None:
    def refuse(self: Any, engine: Any, most: int) -> None:
        raise ModelError("this device decodes one text at a time")

    monkeypatch.setattr(FakeSequences, "__init__", refuse)
    report = bench(runs=1, depths=(0,))
    assert report["tuned"]["prompts"] and not report["tuned"]["batches"]
    with pytest.raises(ModelError, match="one text at a time"):
        bench(runs=1, depths=(0,), widths=("batch",))


def test_one_at_a_time_when_memory_holds_one(bench, gpu) -> None:
    gpu.free = 1 << 30
    report = bench(runs=1, depths=(0,))
    assert not report["settings"]["alternating"] and [e.side for e in gpu.engines] == ["untuned", "tuned"]
    assert set(report["operations"]) == {"untuned", "tuned"} and "sources" in report


def test_what_the_model_was_not_trained_for(bench, gpu) -> None:
    gpu.trained = 2200
    assert list(bench(runs=1)["tuned"]["decode"]) == ["0"]
    gpu.trained = 1024
    assert bench(runs=1)["settings"]["prompt"] == 1023, "as much of the usual one as fits"
    with pytest.raises(ModelError, match="needs a context of 2049 tokens and the model has 1024; ask for fewer"):
        bench(runs=1, prompt=2048)
    assert all(e.closed for e in gpu.engines)
    with pytest.raises(ModelError, match="needs a context of 2002 tokens"):
        bench(runs=1, prompt=10, tokens=2000, depths=(4096, 0))


def test_the_profile_s_position_stays_in_its_context(bench, gpu) -> None:
    bench(runs=1, tokens=300, depths=(0,))
    assert gpu.engines[0].runner.decoder.buffers["position"].item() == 160 - token_time.REPLAYS - 1  # the middle is 151


def test_operations_alone_beside_the_token(bench) -> None:
    rows = {row["kernel"]: row for row in bench(runs=1)["operations"]["tuned"]}
    assert list(rows) == ["qkv", "attention", "out", "gate_up", "down", "head", "pick", "token"]
    assert rows["gate_up"] | {"share": 0, "gb_s": 0} == {
        "kernel": "gate_up", "count": 2, "us": 8.0, "us_each": 4.0, "bytes": 4000, "gb_s": 0, "share": 0,
        "us_rounds": [8.0] * 3,
    }  # fmt: skip
    assert rows["gate_up"]["gb_s"] == pytest.approx(0.5) and rows["gate_up"]["share"] == pytest.approx(0.5 / READ)
    assert rows["pick"]["bytes"] is None and rows["pick"]["gb_s"] is None
    attention: Work = token_time.registry.get("attention").work(Attention(4, 2, 16, 66))
    assert rows["attention"]["bytes"] == 2 * attention.bytes
    assert rows["token"]["us"] == 20.0 and rows["token"]["count"] == 12
    assert rows["token"]["bytes"] == sum(row["bytes"] or 0 for name, row in rows.items() if name != "token")


@pytest.fixture
def with_host(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host computes the second layer's network: the token has a cut in its place."""
    init, launches = FakeEngine.__post_init__, FakeEngine.launches

    def post_init(self: FakeEngine) -> None:
        init(self)
        layer = self.runner.decoder.model.layers[1]
        layer.host, layer.mixture = "the host", LAYER.ffn_part
        self.runner.decoder.executor.program = list
        costs = {i: ExpertCost(10**9, 10e-6, 200e-6) for i in range(2)}
        self.runner.experts = ExpertPlacement(costs, frozenset({1}), 6e-3, 32)

    def cut(self: FakeEngine, part: str, bound: int) -> list[Any]:
        made = launches(self, part, bound)
        return [*made[:-2], Cut("experts", lambda: None)] if part == "layers" else made

    monkeypatch.setattr(FakeEngine, "__post_init__", post_init)
    monkeypatch.setattr(FakeEngine, "launches", cut)


def test_what_the_host_computes_has_a_row(with_host, bench, autotune, tiny_model) -> None:
    report = bench(runs=1, depths=(0,), gpu_memory=8 * 10**9)
    assert not report["settings"]["alternating"] and report["settings"]["gpu_memory"] == 8 * 10**9
    rows = {row["kernel"]: row for row in report["operations"]["tuned"]}
    assert list(rows)[-3:] == ["pick", "experts on the CPU", "token"]
    assert rows["experts on the CPU"] | {"us_rounds": []} == {
        "kernel": "experts on the CPU", "count": 1, "us": 30.0, "us_each": 30.0, "bytes": None, "gb_s": None,
        "share": None, "us_rounds": [],
    }  # fmt: skip
    assert rows["token"]["us"] == 30.0 * 11 and rows["token"]["count"] == 10
    by_host = token_time.work_bytes(LAYER.ffn_part)
    whole = 2 * token_time.work_bytes(LAYER.below(66)) + token_time.work_bytes(HEAD)
    assert report["tuned"]["decode"]["0"]["bytes_per_token"] == whole - by_host
    told = autotune("bench", tiny_model, "--device", "cuda:0", "--runs", "1", "--gpu-memory", "8GB").stdout
    assert "tuned experts: of layers 1 on the GPU (1.00 GB), of layers 2 in host memory (1.00 GB)" in told
    assert "10 µs on the GPU, 200 µs on the CPU" in told and "a pass of 32 rows and more has them copied" in told
    assert benchmark_result.parse(json.loads(json.dumps(report))).settings["experts"].keys() == {"untuned", "tuned"}


def test_the_memory_that_was_allowed_is_recorded(bench) -> None:
    """Also where all experts fit, or there are none."""
    settings = bench(runs=1, depths=(0,), gpu_memory=8 * 10**9)["settings"]
    assert settings["gpu_memory"] == 8 * 10**9 and "experts" not in settings


def test_the_cache_s_format_is_recorded(bench, gpu) -> None:
    """Where it is not the usual one."""
    assert "cache" not in bench(runs=1, depths=(0,))["settings"] and gpu.cache == "f16"
    assert bench(runs=1, depths=(0,), cache="q8_0")["settings"]["cache"] == gpu.cache == "q8_0"


def test_memory_is_read_in_the_same_rounds(bench, gpu, autotune, tiny_model) -> None:
    """A reading of each turn; the known ceiling counts unless a round was faster."""
    device = bench(runs=2)["device"]
    assert device["read_gb_s_rounds"] == pytest.approx([1000.0] * 4, rel=1e-3) and device["read_gb_s"] == READ
    told = autotune("bench", tiny_model, "--device", "cuda:0", "--runs", "2", "--depth", "0").stdout
    assert "in the same rounds" in told


def test_the_tables(autotune, gpu, tiny_model) -> None:
    result = autotune("bench", tiny_model, "--device", "cuda:0", "--runs", "1", "--depth", "0", "--depth", "200")
    assert result.exit_code == 0, result.stderr
    decode = [line.split() for line in result.stdout.splitlines() if line.split()[:1] in (["untuned"], ["tuned"])]
    assert [words[:2] for words in decode] == [["untuned", "0"], ["untuned", "200"], ["tuned", "0"], ["tuned", "200"]]
    assert decode[2][2:4] == ["9999.0", "9999.0–9999.0"] and decode[2][-1] == "12" and decode[3][-1] == "14"
    assert "prefill of 2048 tokens: untuned 100000.0 (100000.0–100000.0) tok/s, tuned 100000.0" in result.stdout
    (token,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["token"]]
    assert token[1:5] == ["12", "20.0", "20.0", "1.00×"]
    assert "in the token they overlap" in result.stdout
    wide = [line for line in result.stdout.splitlines() if "texts together" in line or "a prompt of" in line]
    assert len(wide) == 6 and "1.93× in one round" in wide[4]
    document = json.loads(autotune("bench", tiny_model, "--device", "cuda:0", "--runs", "1", "--json").stdout)
    assert document["device"]["chip"] == "Fake 100" and set(document["tuned"]["decode"]) == {"0", "4096"}


def test_kernels_of_one_side_only(capsys) -> None:
    from autotune.commands.bench import print_benchmark

    def side(kernel: str, us: float, token_us: float) -> Side:
        rows = (KernelTime(kernel, 1, us, None), KernelTime("token", 1, token_us, None))
        return Side(1.0, {0: Decode(1.0, (1.0, 1.0), 1, 2)}, rows)

    untuned, tuned = side("finish", 7.0, 9.0), side("join", 5.0, 6.0)
    print_benchmark(ModelBenchmark("m", "chip", "", 10.0, untuned, tuned, settings={"prompt": 8}))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["finish", "1", "7.0", "–", "–", "–", "–", "–", "–"] in lines
    assert ["join", "1", "–", "5.0", "–", "5.00", "–", "–", "–"] in lines
    assert [line[0] for line in lines if line[:1] in (["finish"], ["token"])] == ["finish", "token"]


def test_a_document_is_read_as_it_was_written(bench) -> None:
    document = json.loads(json.dumps(bench(runs=2)))
    assert document["speedups"]["batch 32"] and document["tuned"]["prompts"]["16"]
    assert benchmark_result.parse(document).document() == {**document, "sources": {}}
    for key in ("prompts", "batches"):
        for side in benchmark_result.SIDES:
            del document[side][key]
    document["speedups"] = {name: row for name, row in document["speedups"].items() if " " not in name}
    assert not benchmark_result.parse(document).tuned.prompts, "one from before"
    for bad in ("batch", "batch x", "prompt -1", "wide 3", "batch 8 8"):
        with pytest.raises(ValueError, match="is no number of tokens"):
            benchmark_result.parse({**document, "speedups": {bad: document["speedups"]["0"]}})
    del document["settings"], document["sources"], document["device"]["fingerprint"]  # an older one
    assert benchmark_result.parse(document).captured_alone


def test_a_bad_depth_is_refused_early(complaint, tiny_model, gpu) -> None:
    assert "depth" in complaint("bench", tiny_model, "--device", "cuda:0", "--depth", "-1")


@pytest.mark.gpu
def test_for_real(tiny_model: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    with open_db(tmp_path / "bench.db") as db:
        report = model_benchmark.benchmark(
            tiny_model, db, "cuda:0", prompt=100, tokens=32, runs=2, depths=(0, 100)
        ).document()
    for side in benchmark_result.SIDES:
        rows = report["operations"][side]
        print(f"{side}: {report[side]['decode']['0']['tok_s']:.0f} tok/s, {[(r['kernel'], r['us']) for r in rows]}")
        assert rows[-1]["kernel"] == "token" and all(row["us"] > 0 for row in rows)
        assert report[side]["decode"]["100"]["share"] < 1 and report[side]["prefill_tok_s"] > 0
