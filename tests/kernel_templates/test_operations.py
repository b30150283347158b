"""Every template against its float64 reference: all formats, odd sizes, several threads, the default and other configs.

Sizes are small: a kernel takes a second to compile and microseconds to run. They are odd on purpose: rows that fill no
tile, head sizes that are no power of two, formats mixed within one operation.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_harness import Built, worst_error
from some_formats import ALL_TRAITS, few

from kernel_templates import registry
from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu import dot, machine
from kernel_templates.cpu.graph import Graph
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.ffn.problem import Ffn
from kernel_templates.formats import FORMATS, codec
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.head.problem import Head
from kernel_templates.input_gate.problem import InputGate
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matvec.problem import Matvec
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.norm_qkvz.problem import NormQkvz
from kernel_templates.operation import Weight
from kernel_templates.per_layer_inputs.problem import PerLayerInputs
from kernel_templates.problem import Problem
from kernel_templates.space import Config

INTEGER = [name for name, fmt in FORMATS.items() if fmt.quantized]
SUPER_BLOCKS = [name for name, fmt in FORMATS.items() if fmt.block > 32]


def width(name: str, cols: int) -> int:
    """`cols`, in whole blocks of the format."""
    return -(-cols // FORMATS[name].block) * FORMATS[name].block


def has_super_blocks(problem: Problem) -> bool:
    return any(f"={name}" in problem.key for name in SUPER_BLOCKS)


# Gemma's traits. The first two sizes are no multiple of 32; the others those of Gemma 3 270M and 1B.
TRAITS: list[Problem] = [
    Matvec(83, 96, "Q4_0", post_norm=1),
    Matvec(1, 32, "F32", post_norm=1),
    Matvec(640, 1024, "Q8_0", post_norm=1),
    Matvec(83, 96, "Q8_0", bias=1),
    Matvec(320, 96, "MXFP4", post_norm=1, bias=1),
    Matvec(1152, 1024, "Q4_0", "int8", post_norm=1),
    Ffn(96, 160, "Q4_0", "Q4_0", "Q4_0", gate_function="gelu"),
    Ffn(160, 96, "F32", "Q8_0", "BF16", post_norm=1),
    Ffn(640, 2048, "Q8_0", "Q8_0", "Q8_0", gate_function="gelu", post_norm=1),
    Ffn(1152, 6912, "Q4_0", "Q4_0", "Q4_1", gate_function="gelu", post_norm=1),
    Head(333, 160, "Q8_0", softcap=30.0),
    Head(1000, 640, "Q8_0", softcap=0.5),
]
# Gemma 4's: heads of 512, layers without keys and values, normed values, inputs for each layer, an output scale.
GEMMA_4: list[Problem] = [
    Ffn(160, 96, "Q4_0", "Q8_0", "BF16", gate_function="gelu", post_norm=1, out_scale=1),
    NormQkvRope(96, 2, 1, 512, 512, 1, "Q8_0", "Q8_0", "Q8_0", v_norm=1),
    NormQkvRope(96, 3, 1, 48, 48, 0, "Q4_0", "Q4_0", "Q8_0", v_norm=1),
    NormQkvRope(96, 3, 0, 64, 64, 1, "Q4_0", "Q4_0", "Q4_0", v_norm=1),
    Attention(4, 1, 512, 200, scale=1.0),
    *(InputGate(width(name, 96), width(name, 64), name, name) for name in ("Q4_0", "Q6_K", "BF16")),
    InputGate(160, 32, "F32", "Q8_0", out_scale=1),
    InputGate(160, 256, "Q8_0", "Q4_K", "int8", out_scale=1),
    *(PerLayerInputs(width(name, 96), 5, 64, name) for name in ("F32", "BF16", "Q8_0", "Q4_K")),
    PerLayerInputs(160, 3, 16, "Q4_1", "int8"),
]
# Every operation meets every trait of a format; kernels of super-blocks take longest to compile, so few problems have
# them.
PROBLEMS: list[Problem] = [
    *(Matvec(83, width(name, 96), name) for name in FORMATS),
    *(Matvec(200, 160, name, "int8") for name in INTEGER if name not in SUPER_BLOCKS and name in ALL_TRAITS),
    Matvec(1, 32, "Q4_0"),
    *(Head(333, width(name, 160), name) for name in ALL_TRAITS),
    Ffn(96, 160, "Q4_0", "Q4_0", "Q4_0"),
    Ffn(96, 160, "F16", "F16", "F16"),
    Ffn(256, 416, "Q4_1", "Q6_K", "Q8_0", "int8"),
    Ffn(96, 160, "F32", "Q4_0", "BF16"),
    *(NormQkvRope(96, 3, 1, 64, 32, 1, name, name, name) for name in ("Q4_0", "BF16")),
    NormQkvRope(96, 3, 1, 48, 48, 0, "Q4_0", "Q4_0", "Q8_0"),
    NormQkvRope(256, 4, 2, 128, 128, 1, "Q4_1", "Q6_K", "F16", "int8"),
    NormQkvRope(64, 2, 2, 64, 24, 0, "F32", "Q8_0", "Q8_0"),
    Attention(9, 3, 64, 200),
    Attention(3, 1, 48, 129),
    Attention(4, 4, 128, 65),
    Attention(8, 2, 128, 513),
    Attention(1, 1, 16, 1),
    Attention(9, 3, 64, 200, window=77),
    Attention(4, 1, 256, 300, window=128, softcap=20.0, scale=0.1),
    Attention(3, 3, 96, 129, softcap=5.0),
    Attention(4, 2, 80, 150, window=1000, scale=0.25),
    Attention(2, 1, 112, 70),
    Attention(16, 2, 64, 300, sinks=1),
    Attention(6, 2, 64, 200, window=77, softcap=20.0, sinks=1),
    NormQkvRope(96, 3, 1, 64, 32, 1, "Q4_0", "Q4_0", "Q4_0", qkv_bias=1),
    NormQkvRope(96, 2, 2, 80, 48, 0, "Q8_0", "Q8_0", "F16", qkv_bias=1),
    Attention(4, 1, 256, 130, scale=0.1, output_gate=1),
    Attention(6, 2, 48, 200, output_gate=1),
    NormQkvRope(96, 3, 1, 64, 16, 1, "Q4_0", "Q4_0", "Q8_0", qkv_bias=1, output_gate=1),
    NormQkvz(96, 4, 2, 64, "Q4_0", "Q8_0", "F32"),
    NormQkvz(64, 6, 2, 16, "F16", "F16", "F16"),
    NormQkvz(256, 2, 1, 32, "Q4_K", "Q4_K", "Q4_K"),
    GatedDelta(4, 2, 64, 4),
    GatedDelta(6, 2, 16, 4, tokens=19),
    GatedDelta(3, 1, 48, 2, sequences=3),
    GatedDelta(2, 2, 96, 5, sequences=2, tokens=3),
    GatedDelta(2, 1, 128, 4, tokens=2),
    GatedDelta(1, 1, 256, 4),
    # 3 and 7 tokens are decoded in registers, 37 through panels; 83 rows fill none of either's.
    *(Matmul(83, width(name, 96), name, tokens) for name in ALL_TRAITS for tokens in (3, 37)),
    Matmul(83, 608, "Q4_0", 7),
    Matmul(64, 608, "Q4_1", 9, gate="silu"),
    Matmul(160, 1056, "Q8_0", 50, gate="gelu"),
    *TRAITS,
    *GEMMA_4,
]
MORE: list[Problem] = [
    *(Ffn(width(name, 96), width(name, 160), name, name, name) for name in FORMATS),
    *(NormQkvRope(width(name, 96), 3, 1, 64, 32, 1, name, name, name) for name in FORMATS),
    *(Matvec(200, 512, name, "int8") for name in INTEGER if name in SUPER_BLOCKS or name not in ALL_TRAITS),
    *(Head(333, width(name, 160), name) for name in FORMATS if name not in ALL_TRAITS),
    *(Matmul(83, width(name, 96), name, tokens) for name in FORMATS if name not in ALL_TRAITS for tokens in (3, 37)),
]
# Problems that meet a second configuration without asking for the slow tests.
VARIED = [p for p in PROBLEMS if p.op in ("matvec", "matmul", "attention") and not has_super_blocks(p)]
VARIED = [p for p in VARIED if getattr(p, "format", "Q4_0") in ALL_TRAITS] + [
    Ffn(96, 160, "F32", "Q4_0", "BF16"),
    NormQkvRope(96, 3, 1, 48, 48, 0, "Q4_0", "Q4_0", "Q8_0"),
    Head(333, 256, "Q6_K"),
    Ffn(160, 96, "F32", "Q8_0", "BF16", post_norm=1),
    Head(333, 160, "Q8_0", softcap=30.0),
]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """The tensors are small, and the processors are busy with the other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def teams() -> Iterator[list[ThreadPool]]:
    teams = [ThreadPool(threads) for threads in (1, 2, 3)]
    yield teams
    for team in teams:
        team.close()


def others(problem: Problem, count: int) -> list[Config]:
    """Configurations besides the default, the same in every run."""
    space = registry.cpu_space(problem, machine.features())
    rest = [c for c in space.configs() if c != space.default]
    return random.Random(problem.key).sample(rest, min(count, len(rest)))


def check(problem: Problem, config: Config | None, teams: list[ThreadPool]) -> None:
    built = Built(problem, config)
    limit = built.operation.tolerance_on("cpu", problem)
    for team in teams:
        error = built.error(random.Random(problem.key).randrange(1 << 30) + team.threads, team)
        assert error <= limit, f"{team.threads} threads, {built.config}: off by {error:.2e}, allowed {limit:.2e}"


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_the_default_agrees_with_the_reference(problem, teams, capfd):
    check(problem, None, teams)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("problem", VARIED, ids=lambda p: p.key)
def test_another_config_agrees_with_the_reference(problem, teams):
    for config in others(problem, 1):
        check(problem, config, teams)


@pytest.mark.slow
@pytest.mark.parametrize("problem", dict.fromkeys([*PROBLEMS, *MORE]), ids=lambda p: p.key)
def test_many_configs_agree_with_the_reference(problem, teams):
    for config in [None, *others(problem, 12)]:
        check(problem, config, teams)


@pytest.mark.parametrize("name", few(INTEGER))
def test_two_planes_of_activations_leave_almost_no_error(name, teams):
    """The tolerance of a format is that of one int8 plane; with two, the low one wrong would still pass there."""
    assert Built(Head(333, width(name, 160), name)).error(11, teams[1]) < 1e-4


def on_path(problem: Problem, path: str) -> Config:
    return Config({**registry.cpu_space(problem, machine.features()).default, "path": path})


@pytest.mark.parametrize("name", few(INTEGER))
def test_every_path_gives_the_same_bits(name, teams):
    """Activations in planes and in pairs are the same numbers, and integer products have no rounding."""
    problem = Matvec(83, width(name, 160), name)
    given = registry.get(problem.op).inputs(problem, 7)
    start, made = given.buffers["out"].copy(), []
    for path in dot.available(machine.features()):
        given.buffers["out"][:] = start
        made.append(Built(problem, on_path(problem, path)).run(given, teams[1])["out"].copy())
    assert np.any(made[0] != start)
    for other in made[1:]:
        np.testing.assert_array_equal(made[0], other)


@pytest.mark.skipif("madd" not in dot.available(machine.features()), reason="no x86 processor")
@pytest.mark.parametrize(
    "problem",
    [
        Ffn(256, 416, "Q4_1", "Q6_K", "Q8_0", "int8"),
        Ffn(160, 96, "F32", "Q8_0", "BF16", post_norm=1),
        NormQkvRope(256, 4, 2, 128, 128, 1, "Q4_1", "Q6_K", "F16", "int8"),
        NormQkvz(96, 4, 2, 64, "Q4_0", "Q8_0", "F32"),
        InputGate(160, 256, "Q8_0", "Q4_K", "int8", out_scale=1),
        PerLayerInputs(160, 3, 16, "Q4_1", "int8"),
        Head(333, 256, "Q6_K"),
        Matmul(83, 256, "Q6_K", 3),
        Matmul(64, 608, "Q4_1", 9, gate="silu"),
    ],
    ids=lambda p: p.key,
)
def test_pairs_agree_with_the_reference(problem, teams):
    """Whatever this processor's default is."""
    check(problem, on_path(problem, "madd"), teams)


@pytest.mark.parametrize("position", [0, 1, 63, 64, 127, 199])
def test_attention_runs_at_any_position_and_reads_nothing_beyond(position, teams):
    problem = Attention(9, 3, 64, 200)
    built = Built(problem)
    given = built.operation.inputs(problem, position)
    given.buffers["position"][0] = position
    expected = built.operation.reference(problem, given)
    beyond = torch.full((256 - position - 1, 3, 64), torch.nan)
    cache.write(given.buffers["keys"], given.buffers["values"], beyond, beyond, position + 1)
    assert worst_error(built.run(given, teams[2]), expected) <= built.operation.tolerance_on("cpu", problem)


@pytest.mark.parametrize("position", [0, 75, 76, 77, 128, 199])
def test_attention_reads_nothing_before_its_window(position, teams):
    """What a vector of positions has before it may be loaded: it does not count, whatever it is."""
    problem = Attention(9, 3, 64, 200, window=77)
    built = Built(problem)
    given = built.operation.inputs(problem, position)
    given.buffers["position"][0] = position
    expected = built.operation.reference(problem, given)
    left = max(position + 1 - problem.window, 0)
    before = torch.full((left, 3, 64), torch.nan)
    cache.write(given.buffers["keys"], given.buffers["values"], before, before, 0)
    assert worst_error(built.run(given, teams[2]), expected) <= built.operation.tolerance_on("cpu", problem)


def test_a_window_costs_what_its_positions_do():
    """Far into a context as at its start: the least that is moved, and the room for partial results."""
    at = {context: registry.get("attention").work(Attention(8, 2, 64, context, window=512)) for context in (512, 8192)}
    assert at[512] == at[8192] == registry.get("attention").work(Attention(8, 2, 64, 512))
    assert Attention(8, 2, 64, 300, window=512).reach == 300


def test_attention_survives_scores_beyond_what_exp_can_hold(teams):
    problem = Attention(3, 1, 64, 200)
    built = Built(problem)
    given = built.operation.inputs(problem, 5)
    given.buffers["q"] *= 300  # scores of some thousand, where e**score is infinite
    expected = built.operation.reference(problem, given)
    assert worst_error(built.run(given, teams[1]), expected) <= built.operation.tolerance_on("cpu", problem)


def test_a_sink_may_take_all_or_nothing(teams):
    """Beyond what exp can hold, and over more chunks of positions than one."""
    problem = Attention(4, 2, 64, 400, sinks=1)
    built = Built(problem)
    given = built.operation.inputs(problem, 6)
    given.buffers["sinks"][:4] = [5000.0, -5000.0, 90.0, -90.0]
    expected = built.operation.reference(problem, given)
    out = built.run(given, teams[2])
    assert worst_error(out, expected) <= built.operation.tolerance_on("cpu", problem)
    without = registry.get("attention").reference(replace(problem, sinks=0), given)["out"]
    assert not expected["out"][:64].any() and np.array_equal(expected["out"][64:128], without[64:128])


def test_the_first_kernel_writes_one_position_and_keeps_the_others(teams):
    problem = NormQkvRope(96, 3, 1, 64, 32, 1, "Q8_0", "Q8_0", "Q8_0")
    built = Built(problem)
    given = built.operation.inputs(problem, 3)
    rng, at = np.random.default_rng(4), int(given.buffers["position"][0])
    k, v = (torch.from_numpy(rng.standard_normal((256, 1, 64), np.float32)) for _ in range(2))
    cache.write(given.buffers["keys"], given.buffers["values"], k, v, 0)
    before = cache.read(given.buffers["keys"], given.buffers["values"], 256)
    written = built.run(given, teams[1])
    after = cache.read(written["keys"], written["values"], 256)
    for old, new in zip(before, after, strict=True):
        changed = (old != new).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == [at]


def test_inputs_are_fresh_for_each_seed_and_never_zero():
    for problem in {p.op: p for p in PROBLEMS}.values():
        build = registry.get(problem.op).inputs
        one, again, other = build(problem, 1), build(problem, 1), build(problem, 2)
        for name in one.weights:
            assert torch.equal(one.weights[name].raw, again.weights[name].raw)
            assert not torch.equal(one.weights[name].raw, other.weights[name].raw)
        for name in {"x", "q", "norm"} & set(one.buffers):
            assert np.array_equal(one.buffers[name], again.buffers[name])
            assert not np.array_equal(one.buffers[name], other.buffers[name])


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if not has_super_blocks(p)], ids=lambda p: p.key)
def test_work_counts_at_least_the_weights(problem):
    given = registry.get(problem.op).inputs(problem, 1)
    work = registry.get(problem.op).work(problem)
    assert work.bytes > sum(w.raw.numel() for w in given.weights.values())
    assert work.ops >= 2 * sum(w.rows * w.cols for w in given.weights.values())


def shift_rows(weight: Weight) -> Weight:
    return replace(weight, raw=weight.raw.roll(1, 0))


def shift_blocks(weight: Weight) -> Weight:
    """Each block of quants beside its neighbour's scale."""
    fmt = FORMATS[weight.format]
    fields = codec.read(fmt.blocks(weight.raw), fmt.layout)
    shifted = replace(fields, scale=fields.scale.roll(1, 1))
    return replace(weight, raw=codec.write(shifted, fmt.layout).flatten(-2))


def lose_block(weight: Weight) -> Weight:
    raw, size = weight.raw.clone(), FORMATS[weight.format].block_bytes
    raw[:, size : 2 * size] = 0
    return replace(weight, raw=raw)


@pytest.mark.parametrize("damage", [shift_rows, shift_blocks, lose_block])
@pytest.mark.parametrize("name", INTEGER)
def test_a_damaged_weight_is_noticed(name, damage, teams):
    """What judges kernels must be able to fail them."""
    problem = Head(100, width(name, 512), name)
    built = Built(problem)
    given = built.operation.inputs(problem, 9)
    expected = built.operation.reference(problem, given)
    limit = built.operation.tolerance_on("cpu", problem)
    assert worst_error(built.run(given, teams[1]), expected) <= limit
    damaged = replace(given, weights={"w": damage(given.weights["w"])})
    assert worst_error(built.run(damaged, teams[1]), expected) > limit


def test_a_row_that_is_not_computed_is_noticed():
    expected = {"out": np.ones(100)}
    assert worst_error({"out": np.array([*[1.0] * 99, np.nan])}, expected) == np.inf
    assert worst_error({"out": np.ones(100)}, expected) == 0


def test_a_post_norm_waits_for_every_thread_however_often_it_runs(teams):
    """Whichever thread is ready last adds the norm: the same bits on one, two and three threads, a hundred times."""
    problem = Matvec(160, 96, "Q8_0", post_norm=1)
    built, template, found = Built(problem), registry.cpu("matvec"), []
    for team in teams:
        given = built.operation.inputs(problem, 1)
        scratch = np.full(team.threads * template.scratch_bytes(problem, built.config), 0xFF, np.uint8)
        packed = template.pack(problem, built.config, given.weights)
        step = template.bind(problem, built.config, built.kernel, packed, {**given.buffers, "scratch": scratch})
        graph = Graph(team, [step] * 10)
        for _ in range(10):
            graph.replay()
        found.append(given.buffers["out"])
    assert np.isfinite(found[0]).all() and all(np.array_equal(found[0], other) for other in found[1:])
