"""Every template on a GPU against the float64 reference: formats, odd sizes, configurations drawn at random.

Inputs are fresh in every session and outputs start as NaN; AUTOTUNE_TEST_SEED repeats a session. With -s each case
prints what a call takes in a captured graph of several, and the bytes that it has to read and write over that time
(from the second-level cache: shapes here are small).
"""

import itertools
import os
import random
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from kernel_templates import formats, registry
from kernel_templates.cuda import machine
from kernel_templates.cuda.graph import Graph
from kernel_templates.layer.problem import LinkedChain
from kernel_templates.operation import Inputs
from kernel_templates.problem import Problem
from kernel_templates.space import Config, Space
from kernel_templates.verify import verify

pytestmark = pytest.mark.gpu

SEED = int(os.environ.get("AUTOTUNE_TEST_SEED", secrets.randbits(31)))
DRAWN = 6
CALLS, REPLAYS = 20, 20

MATVEC = "matvec:rows={rows},cols={cols},format={name},activation={activation}"
FFN = "ffn:hidden={hidden},ffn={ffn},gate_format={0},up_format={1},down_format={2},activation=int16"
HEAD = "head:vocab={vocab},hidden={hidden},format={name},activation=int16"
QKV = "norm_qkv_rope:{shape},q_format={0},k_format={1},v_format={2},activation=int16"
LAYER = (
    "layer:{shape},ffn={ffn},q_format={0},k_format={0},v_format={1},out_format={0},gate_format={0},up_format={0},"
    "down_format={1},activation=int16,context={context}"
)
MATMUL = "matmul:rows={},cols={},format={},tokens={}"
PAGED = "paged_attention:sequences={},tokens={},heads={},kv_heads={},head_dim={},context={}"
DELTA = "gated_delta:heads={},key_heads={},head_dim={},kernel=4"
DELTA_LAYER = (
    "delta_layer:{shape},ffn={ffn},qkv_format={0},z_format={0},gates_format={1},out_format={0},gate_format={0},"
    "up_format={0},down_format={1},activation=int16"
)
MOE = (
    "moe:hidden={0},ffn={1},experts={2},used={3},router_format=F32,gate_format={4},up_format={4},down_format={5},"
    "activation=int16"
)
GROUPED = "grouped_matmul:rows={},cols={},format={},experts={},used={},tokens={}"
SHARED = ",shared_ffn=512,shared_gate_format=Q8_0,shared_up_format=Q8_0,shared_down_format=Q8_0,shared_gated=1"
BESIDE = SHARED.replace(",shared_gated=1", ",gate_function=gelu,normalized=1,post_norm=1,beside=1,out_scale=1")
EXPERTS = ",experts=64,used=8,router_format=F32,normalized=1"
GPT_OSS = ",gate_function=swiglu_oai,routing=softmax_of_chosen,bias=1"
SMOLLM2 = "hidden=576,heads=9,kv_heads=3,head_dim=64,rope_dim=64,qk_norm=0"
QWEN3 = "hidden=1024,heads=16,kv_heads=8,head_dim=128,rope_dim=128,qk_norm=1"
WINDOW = "window=100,softcap=50.0,scale=0.1"
GEMMA3 = "hidden=640,heads=4,kv_heads=1,head_dim=256,rope_dim=256,qk_norm=1"  # 270M
PARTIAL = "hidden=768,heads=8,kv_heads=2,head_dim=80,rope_dim=40,qk_norm=1"  # RoPE over half of a head

FORMATS = [
    *(MATVEC.format(rows=576, cols=1536, name=n, activation=a) for n in formats.FORMATS for a in ("int16", "int8")),
    *(FFN.format(n, n, n, hidden=1024, ffn=1536) for n in formats.FORMATS),
    *(HEAD.format(vocab=5003, hidden=1024, name=n) for n in formats.FORMATS),
    *(QKV.format(n, n, n, shape=QWEN3) for n in formats.FORMATS),
]
GEMMA = ",gate_function=gelu,post_norm=1"
ODD = [
    MATVEC.format(rows=640, cols=1024, name="Q8_0", activation="int16") + ",post_norm=1",
    MATVEC.format(rows=5376, cols=4096, name="Q4_0", activation="int16") + ",post_norm=1",
    FFN.format("Q8_0", "Q8_0", "Q4_1", hidden=640, ffn=2048) + GEMMA,
    FFN.format("Q4_0", "Q4_0", "Q8_0", hidden=1152, ffn=6912) + GEMMA,
    HEAD.format(vocab=5003, hidden=640, name="Q8_0") + ",softcap=30.0",
    MATVEC.format(rows=32, cols=32, name="Q4_0", activation="int16"),
    MATVEC.format(rows=96, cols=53248, name="Q4_0", activation="int16"),
    FFN.format("Q4_0", "Q8_0", "F16", hidden=576, ffn=1568),
    FFN.format("BF16", "Q4_1", "Q8_0", hidden=96, ffn=160),
    HEAD.format(vocab=49152, hidden=576, name="Q8_0"),
    HEAD.format(vocab=7, hidden=32, name="Q4_1"),
    QKV.format("Q4_0", "Q4_0", "Q6_K", shape=PARTIAL),
    QKV.format("Q4_1", "Q8_0", "Q4_1", shape=SMOLLM2),
    *(
        f"attention:heads={h},kv_heads={k},head_dim={d},context=160"
        for h, k, d in ((8, 1, 80), (4, 4, 96), (3, 1, 256))
    ),
    *(f"attention:heads=8,kv_heads=4,head_dim={d},context=700,{WINDOW}" for d in (64, 80, 96, 128, 256)),
    *(f"attention:heads=8,kv_heads=4,head_dim=256,context={c},window=512" for c in (512, 8192)),
    QKV.format("Q4_0", "Q4_0", "Q8_0", shape=PARTIAL) + ",qkv_bias=1",
    *(MATMUL.format(640, 1024, n, tokens) for n in ("Q4_0", "Q6_K") for tokens in (2, 4, 8, 16, 32, 100)),
    *(MATMUL.format(256, 256, "Q4_0", tokens) for tokens in (2, 32)),
    *(MATMUL.format(1536, 576, "Q8_0" if tokens > 9 else "Q4_1", tokens) + ",gate=silu" for tokens in (3, 9, 24)),
    *(MATMUL.format(4096, 4096, "Q4_0", tokens) for tokens in (4, 32, 300)),
    *(PAGED.format(1, tokens, 9, 3, 64, tokens) for tokens in (16, 100, 512)),
    *(PAGED.format(1, 200, 8, 2, d, 700) + f",{WINDOW}" for d in (64, 80, 96, 128, 256)),
    *(PAGED.format(5, 1, 8, 4, d, 700) + f",{WINDOW}" for d in (64, 80, 96, 128, 256)),
    *(f"attention:heads=16,kv_heads=4,head_dim=256,context={c},output_gate=1" for c in (160, 700, 5120)),
    QKV.format("Q4_0", "Q4_0", "Q8_0", shape=PARTIAL) + ",output_gate=1",
    *(DELTA.format(*shape) for shape in ((32, 16, 128), (6, 3, 48), (4, 2, 256))),
    *(DELTA.format(4, 2, 64) + f",sequences={s},tokens={t}" for s, t in ((7, 1), (3, 5), (2, 70), (1, 300))),
    MOE.format(2048, 768, 128, 8, "Q4_K", "Q6_K") + ",normalized=1",
    MOE.format(2880, 2880, 32, 4, "MXFP4", "MXFP4") + GPT_OSS,
    MOE.format(576, 96, 300, 1, "BF16", "Q8_0") + ",routing=sigmoid,normalized=1,scale=2.5,post_norm=1",
    MOE.format(1024, 256, 16, 3, "Q4_0", "Q4_0") + SHARED,
    MOE.format(2816, 704, 128, 8, "Q4_K", "Q5_0") + BESIDE,
    LAYER.format("Q4_0", "Q8_0", shape=QWEN3, ffn=384, context=160) + EXPERTS,
    *(GROUPED.format(1536, 2048, "Q4_K", 128, 8, tokens) + ",gate=silu" for tokens in (2, 32, 600)),
    *(GROUPED.format(2048, 768, "Q6_K", 128, 8, tokens) + ",x_of=pair" for tokens in (2, 32, 600)),
    *(GROUPED.format(640, 320, "MXFP4", 32, 4, tokens) + ",gate=swiglu_oai,bias=1" for tokens in (5, 100, 999)),
    *(GROUPED.format(200, 96, n, 7, 2, 50) + ",gate=gelu" for n in ("F16", "BF16", "F32")),
    *(PAGED.format(3, 2, 71, 1, 64, 200), PAGED.format(1, 40, 40, 2, 128, 90), PAGED.format(2, 8, 3, 3, 16, 9)),
]
SAMPLED = [
    MATVEC.format(rows=1024, cols=2048, name="Q4_0", activation="int16"),
    MATVEC.format(rows=576, cols=1536, name="Q4_1", activation="int8"),
    MATVEC.format(rows=1024, cols=3072, name="Q6_K", activation="int16"),
    MATVEC.format(rows=576, cols=576, name="BF16", activation="int16"),
    FFN.format("Q4_0", "Q4_0", "Q4_0", hidden=1024, ffn=3072),
    FFN.format("Q8_0", "Q4_1", "Q8_0", hidden=576, ffn=1536),
    FFN.format("Q8_0", "Q8_0", "Q8_0", hidden=640, ffn=2048) + GEMMA,
    HEAD.format(vocab=5003, hidden=1024, name="Q6_K"),
    HEAD.format(vocab=8192, hidden=576, name="Q8_0"),
    QKV.format("Q4_0", "Q4_0", "Q4_0", shape=QWEN3),
    QKV.format("F16", "F16", "Q8_0", shape=SMOLLM2),
    "attention:heads=16,kv_heads=8,head_dim=128,context=160",
    "attention:heads=9,kv_heads=3,head_dim=64,context=640",
    "attention:heads=32,kv_heads=8,head_dim=128,context=2560",
    *(MATMUL.format(1024, 1024, "Q4_0", tokens) for tokens in (2, 8, 32, 64)),
    MATMUL.format(2048, 1024, "Q8_0", 16) + ",gate=silu",
    MATMUL.format(512, 2048, "Q6_K", 128),
    DELTA.format(32, 16, 128),
    *(DELTA.format(32, 16, 128) + f",sequences={s},tokens={t}" for s, t in ((8, 1), (1, 16), (1, 1000))),
    PAGED.format(1, 1024, 16, 8, 128, 1024),
    PAGED.format(8, 1, 32, 8, 128, 1000),
    PAGED.format(1, 8, 32, 8, 128, 1000),
    PAGED.format(1, 256, 4, 1, 256, 600) + ",window=512",
    GROUPED.format(512, 512, "Q4_0", 16, 4, 8) + ",gate=silu",
    GROUPED.format(512, 256, "Q6_K", 16, 4, 200) + ",x_of=pair",
]
LAYERS = [
    LAYER.format("Q8_0", "Q8_0", shape=GEMMA3, ffn=2048, context=700) + ",window=512" + GEMMA,
    LAYER.format("Q4_0", "Q8_0", shape=QWEN3, ffn=3072, context=160),
    LAYER.format("Q4_1", "Q4_1", shape=SMOLLM2, ffn=1536, context=700),
    LAYER.format("BF16", "BF16", shape=PARTIAL, ffn=1024, context=90),
    LAYER.format("Q4_0", "Q8_0", shape=PARTIAL, ffn=1024, context=90) + ",qkv_bias=1,window=50,softcap=20.0",
    LAYER.format("Q4_0", "Q8_0", shape=PARTIAL, ffn=1024, context=90) + ",output_gate=1",
    DELTA_LAYER.format("Q4_K", "Q6_K", shape="hidden=1024,heads=16,key_heads=16,head_dim=128,kernel=4", ffn=3584),
    DELTA_LAYER.format("Q4_0", "Q8_0", shape="hidden=576,heads=4,key_heads=2,head_dim=48,kernel=3", ffn=1024),
    DELTA_LAYER.format("Q4_K", "Q6_K", shape="hidden=1024,heads=16,key_heads=16,head_dim=128,kernel=4", ffn=256)
    + EXPERTS
    + SHARED,
]


@pytest.fixture(scope="module", autouse=True)
def seed() -> None:
    print(f"\nAUTOTUNE_TEST_SEED={SEED}")


class Case:
    """One problem with inputs and the reference's answer, on the GPU."""

    def __init__(self, key: str, position: int | None = None) -> None:
        self.problem: Problem = registry.parse_problem(key)
        self.operation, self.template = registry.get(self.problem.op), registry.cuda(self.problem.op)
        self.device = machine.detect(0)
        self.space: Space = registry.cuda_space(self.problem, self.device)
        self.target = machine.target(self.device)
        self.inputs: Inputs = self.operation.inputs(self.problem, SEED)
        if position is not None:
            self.inputs.buffers["position"][0] = position
        self.wanted = self.operation.reference(self.problem, self.inputs)

    def check(self, config: Mapping[str, Any]) -> None:
        """Run once from poisoned buffers and compare every output; then time it."""
        buffers = self.template.prepare(self.problem, self.inputs, "cuda:0")
        packed = self.template.pack(self.problem, Config(config), self.inputs.weights, "cuda:0")
        launches = self.template.launches(self.problem, Config(config), packed, buffers)
        for launch in launches:
            launch.run(self.target)
        torch.cuda.synchronize()
        found, worst = self.template.collect(self.problem, buffers), 0.0
        for name, wanted in self.wanted.items():
            wanted = np.asarray(wanted, np.float64).ravel()
            off = found[name].ravel()[: wanted.size].astype(np.float64) - wanted
            error = float(np.linalg.norm(off) / np.linalg.norm(wanted))
            worst = max(worst, error if np.isfinite(error) else np.inf)
        tolerance = self.operation.tolerance(self.problem)
        us = microseconds(Graph(launches * CALLS, self.target, "cuda:0"))
        gb_s = self.operation.work(self.problem).bytes / us / 1e3
        print(f"{self.problem.key}: {us:6.2f} us, {gb_s:5.0f} GB/s, error {worst:.2g} of {tolerance:.2g}")
        assert worst <= tolerance, f"seed {SEED}, configuration {dict(config)}"
        if self.problem.op == "head":
            is_the_largest(self.problem, self.template, config, buffers)

    def draw(self) -> Iterator[Config]:
        """DRAWN valid configurations besides the default."""
        rng, drawn = random.Random(f"{SEED} {self.problem.key}"), {self.space.default}
        while len(drawn) <= DRAWN:
            if isinstance(self.problem, LinkedChain):  # part by part: next to no draw of all at once is valid
                spaces = {n: registry.cuda_space(p, self.device) for n, p in self.problem.parts().items()}
                parts = {n: any_valid(space, rng) for n, space in spaces.items()}
                every = {f"{prefix}_{n}": v for prefix, part in parts.items() for n, v in part.items()}
                config = Config({**self.space.default, **every})
            else:
                config = any_valid(self.space, rng)
            assert self.space.broken(config) is None
            if config not in drawn:
                drawn.add(config)
                yield config


def any_valid(space: Space, rng: random.Random) -> Config:
    """A configuration drawn at random, each of the valid ones as likely as another."""
    while True:
        config = Config({p.name: rng.choice(p.values) for p in space.parameters})
        if space.broken(config) is None:
            return config


def microseconds(graph: Graph) -> float:
    """Of one of the calls in it, which follow each other as in a model."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    torch.cuda.synchronize()
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / REPLAYS / CALLS


def is_the_largest(problem: Any, template: Any, config: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
    """Each program's best logit and its row, of which the best is the argmax."""
    count = template.partials(problem, config)
    best, ids = buffers["best_value"][:count], buffers["best_id"][:count].long()
    assert torch.equal(buffers["logits"][ids], best)
    assert torch.equal(best.max(), buffers["logits"].max())
    assert buffers["best_value"][count:].isnan().all() and (buffers["best_id"][count:] == -1).all()


@pytest.mark.parametrize("key", [*FORMATS, *ODD])
def test_default_configuration(key: str) -> None:
    case = Case(key)
    case.check(case.space.default)


@pytest.mark.parametrize("key", SAMPLED)
def test_configurations_drawn_at_random(key: str) -> None:
    case = Case(key)
    for config in case.draw():
        case.check(config)


@pytest.mark.parametrize("position", [0, 1, 31, 159, 160, 639, 2000, 2559])
@pytest.mark.parametrize("context", [160, 640, 2560])
def test_attention_at_any_position(context: int, position: int) -> None:
    """Of a cache that holds `context`; what lies after the position is NaN."""
    if position >= context:
        pytest.skip("past the end of this context")
    case = Case(f"attention:heads=16,kv_heads=8,head_dim=128,context={context}", position)
    case.check(case.space.default)
    for config in itertools.islice(case.draw(), 2):
        case.check(config)


@pytest.mark.parametrize("position", [0, 510, 511, 512, 2000, 8191])
@pytest.mark.parametrize("traits", ["window=512", "window=512,softcap=50.0"])
def test_attention_at_any_position_of_a_window(traits: str, position: int) -> None:
    """With -s: 8191 takes the time that 511 does."""
    case = Case(f"attention:heads=8,kv_heads=4,head_dim=256,context=8192,{traits}", position)
    case.check(case.space.default)


@pytest.mark.parametrize("key", [
    PAGED.format(8, 1, 32, 8, 128, 700), PAGED.format(4, 4, 9, 3, 64, 700),
    PAGED.format(3, 8, 8, 2, 256, 700) + ",window=99",
])  # fmt: skip
def test_captured_paged_attention_serves_any_lengths(key: str) -> None:
    """One graph, whose positions change between replays: at the edges of pages and tiles, and rows that are unused."""
    case = Case(key)
    buffers = case.template.prepare(case.problem, case.inputs, "cuda:0")
    # Positions up to the last that the inputs have written; NaN stands behind them.
    graph = Graph(case.template.launches(case.problem, case.space.default, (), buffers), case.target, "cuda:0")
    texts, tokens = case.problem.sequences, case.problem.tokens
    most = int(case.inputs.buffers["positions"].reshape(texts, tokens)[:, -1].min())
    for place in (tokens - 1, 63, 64, 127, 128, most):
        ends = np.maximum(np.arange(texts) * -7 + place, tokens - 1)
        positions = (ends[:, None] - np.arange(tokens)[::-1]).astype(np.int32)
        positions[-1, tokens // 2 :] = -1
        buffers["positions"].copy_(torch.from_numpy(positions.ravel()))
        buffers["out"].fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        moved = Inputs({}, {**case.inputs.buffers, "positions": positions.ravel()})
        out, used = case.template.collect(case.problem, buffers)["out"], positions.ravel() >= 0
        assert np.isfinite(out).all()
        wanted = case.operation.reference(case.problem, moved)["out"]
        verify({"out": out[used]}, {"out": wanted[used]}, case.operation.tolerance(case.problem))


@pytest.mark.parametrize("finish", ["attention", "kernel"])
@pytest.mark.parametrize("key", LAYERS)
def test_layer(key: str, finish: str) -> None:
    """With heads finished in the attention's prologue, or by a kernel of their own."""
    case = Case(key)
    case.check({**case.space.default, "finish": finish})
    for config in itertools.islice(case.draw(), 1):
        case.check({**config, "finish": finish})
