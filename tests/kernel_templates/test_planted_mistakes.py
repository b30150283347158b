"""Every operation's proof refuses planted mistakes, on the CPU; tests/interpreter does the same for GPU templates."""

from typing import Any

import numpy as np
import planted
import planted_delta
import planted_experts
import pytest
from kernel_harness import Built

from kernel_templates import proof, registry
from kernel_templates.attention import cache
from kernel_templates.attention.problem import Attention
from kernel_templates.cpu.thread_pool import ThreadPool
from kernel_templates.ffn.problem import Ffn
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.grouped_matmul.problem import GroupedMatmul
from kernel_templates.head.problem import Head
from kernel_templates.matvec.problem import Matvec
from kernel_templates.moe.problem import Moe
from kernel_templates.norm_qkv_rope.problem import NormQkvRope
from kernel_templates.operation import Inputs
from kernel_templates.problem import Problem
from kernel_templates.verify import WrongResult, verify

COLS = {"Q6_K": 1024}


def of_format(name: str, activation: str = "int16") -> list:
    cols = COLS.get(name, 1024)
    return [
        Matvec(256, cols, name, activation),
        Head(300, cols, name, activation),
        Ffn(cols, 256, name, name, name, activation),
        NormQkvRope(cols, 4, 2, 64, 64, 1, name, name, name, activation),
    ]


TRAITS = [  # of Gemma 3 270M
    Matvec(640, 1024, "Q8_0", post_norm=1),
    Matvec(640, 1024, "Q8_0", bias=1),
    Ffn(640, 2048, "Q8_0", "Q8_0", "Q4_1", gate_function="gelu", post_norm=1),
    Head(300, 640, "Q8_0", softcap=30.0),
]
PROBLEMS = [
    *TRAITS, *of_format("Q4_1"), *of_format("Q8_0"), *of_format("Q4_0"), *of_format("Q6_K"), *of_format("F16"),
    *of_format("Q8_0", "int8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def team():
    pool = ThreadPool(1)
    yield pool
    pool.close()


def fresh(inputs: Inputs) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in inputs.buffers.items()}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.key)
def test_a_mistake_in_the_weights_or_the_outputs_is_refused(problem, team) -> None:
    built, operation = Built(problem), registry.get(problem.op)
    given = operation.inputs(problem, 3)
    expected = operation.reference(problem, given)
    limit = operation.tolerance_on("cpu", problem)
    right = outputs_of(built.run(Inputs(given.weights, fresh(given)), team), expected)
    verify(right, expected, limit)
    for what, weights in planted.wrong_weights(given) if problem.activation == "int16" else ():
        # int8's own error is as large as a column's share of a thousand, and as small differences of two rows.
        with pytest.raises(WrongResult):
            verify(outputs_of(built.run(Inputs(weights, fresh(given)), team), expected), expected, limit)
            pytest.fail(what)
    for what, buffers in planted.wrong_norms(given):
        with pytest.raises(WrongResult):
            given_wrongly = Inputs(given.weights, {name: value.copy() for name, value in buffers.items()})
            verify(outputs_of(built.run(given_wrongly, team), expected), expected, limit)
            pytest.fail(what)
    for what, outputs in planted.wrong_outputs(problem, right, expected):
        with pytest.raises(WrongResult):
            verify(outputs, expected, limit)
            pytest.fail(what)


@pytest.mark.parametrize("problem", TRAITS, ids=lambda p: p.key)
def test_a_kernel_without_a_trait_is_refused(problem, team) -> None:
    operation, mistakes = registry.get(problem.op), list(planted.wrong_traits(problem))
    given = operation.inputs(problem, 5)
    expected = operation.reference(problem, given)
    assert mistakes
    for what, other in mistakes:
        with pytest.raises(WrongResult):
            written = Built(other).run(Inputs(given.weights, fresh(given)), team)
            verify(outputs_of(written, expected), expected, operation.tolerance_on("cpu", problem))
            pytest.fail(what)


def outputs_of(buffers, expected) -> dict[str, np.ndarray]:
    return {name: buffers[name].copy() for name in expected}


@pytest.mark.parametrize("context", [2, 64, 65, 200, 1000])
def test_attention_is_proved_first_last_and_past_the_edge_of_a_tile(context, team) -> None:
    problem = Attention(6, 2, 64, context)
    positions = (*problem.proved_positions, context - 1)
    assert positions[0] == 0 and len(set(positions)) == len(positions)
    if context > cache.TILE + 1:
        assert any(position % cache.TILE == 0 and position > 0 for position in positions)
    built, operation = Built(problem), registry.get(problem.op)
    given, limit = operation.inputs(problem, 4), operation.tolerance_on("cpu", problem)
    for position in positions:
        given.buffers["position"][0] = position
        expected = operation.reference(problem, given)
        right = outputs_of(built.run(Inputs({}, fresh(given)), team), expected)
        verify(right, expected, limit)
        for what, outputs in planted.wrong_outputs(problem, right, expected):
            with pytest.raises(WrongResult):
                verify(outputs, expected, limit)
                pytest.fail(what)
        if position:  # one position too few, as a kernel that stops at a tile's edge would have it
            short = fresh(given)
            short["position"][0] = position - 1
            with pytest.raises(WrongResult):
                verify(
                    outputs_of(built.run(Inputs({}, short), team), expected),
                    expected,
                    operation.tolerance_on("cpu", problem),
                )


@pytest.mark.parametrize("problem", [
    Attention(8, 4, 256, 200, window=64, softcap=50.0, scale=0.05), Attention(4, 1, 128, 5000, window=4096),
    Attention(6, 2, 64, 60, window=64, softcap=30.0), Attention(3, 1, 96, 700, softcap=50.0, scale=0.2),
], ids=lambda p: p.key)  # fmt: skip
def test_attention_without_a_trait_is_refused(problem) -> None:
    """At one position of the proof at least, wherever the mistake shows at all: a window that no position of the
    context fills leaves nothing behind."""
    right, limit = proof.of(problem, 5), registry.get("attention").tolerance_on("cpu", problem)
    reference = registry.get("attention").reference
    for what, other in planted.wrong_traits(problem):
        refused = 0
        for position in (*problem.proved_positions, problem.context - 1):
            moved = Inputs({}, {**right.inputs.buffers, "position": np.array([position], np.int64)})
            found = {name: value.astype(np.float32) for name, value in reference(other, moved).items()}
            try:
                verify(found, reference(problem, moved), limit)
            except WrongResult:
                refused += 1
        assert refused or (what.startswith("window") and problem.window > problem.context), what


def test_proofs_lie_inside_at_and_past_the_edge_of_the_window() -> None:
    assert Attention(4, 2, 64, 8192, window=512).proved_positions == (0, 256, 510, 511, 512)
    assert Attention(4, 2, 64, 512, window=512).proved_positions == (0, 256, 510), "the last is proved anyway"
    assert Attention(4, 2, 64, 100, window=512).proved_positions == (0, 64)
    assert Attention(4, 2, 64, 3, window=1).proved_positions == (0, 1)


@pytest.mark.parametrize("qk_norm", [0, 1])
def test_a_head_without_its_bias_is_refused(qk_norm, team) -> None:
    problem = NormQkvRope(256, 4, 2, 64, 32, qk_norm, "Q8_0", "Q8_0", "Q8_0", qkv_bias=1)
    built, operation = Built(problem), registry.get(problem.op)
    given = operation.inputs(problem, 3)
    expected, limit = operation.reference(problem, given), operation.tolerance_on("cpu", problem)
    verify(outputs_of(built.run(Inputs(given.weights, fresh(given)), team), expected), expected, limit)
    for what, wrong in planted.wrong_bias(problem, given):
        with pytest.raises(WrongResult):
            verify(outputs_of(built.run(Inputs(given.weights, fresh(wrong)), team), expected), expected, limit)
            pytest.fail(what)


Q8: Any = ("Q8_0",) * 3
MXFP4: Any = ("MXFP4",) * 3
F16: Any = ("F16",) * 3
SHARED: dict[str, Any] = dict.fromkeys(("shared_gate_format", "shared_up_format", "shared_down_format"), "Q8_0")
OF_EXPERTS = [
    Moe(96, 64, 8, 2, "F32", *Q8, normalized=1),
    Moe(64, 32, 5, 1, "F32", "Q4_0", "Q8_0", "Q4_1"),
    Moe(256, 256, 4, 2, "F32", "Q4_K", "Q4_K", "Q6_K", gate_function="gelu"),
    Moe(64, 96, 9, 3, "F32", *MXFP4, gate_function="swiglu_oai", routing="softmax_of_chosen", bias=1),
    Moe(160, 32, 8, 2, "BF16", *Q8, routing="sigmoid", normalized=1, scale=2.5, post_norm=1),
    Moe(64, 96, 8, 3, "F32", *F16, shared_ffn=64, shared_gated=1, **SHARED),
    GroupedMatmul(96, 64, "Q8_0", 8, 3, 7),
    GroupedMatmul(64, 256, "Q4_K", 2, 2, 33, x_of="pair"),
    GroupedMatmul(64, 96, "MXFP4", 6, 2, 9),
    GroupedMatmul(96, 64, "F16", 4, 1, 13),
]


@pytest.mark.parametrize("problem", OF_EXPERTS, ids=lambda p: p.key)
def test_a_mistake_of_experts_is_refused(problem: Moe | GroupedMatmul, team: ThreadPool) -> None:
    run = Judged(problem, team)
    for what, wrong in planted_experts.wrong_inputs(problem, run.given):
        run.refused(what, run.outputs(run.built, wrong))
    for what, other in planted_experts.wrong_traits(problem):
        run.refused(what, run.outputs(Built(other), run.given))
    outputs = planted_experts.wrong_outputs(problem, run.right) if isinstance(problem, Moe) else ()
    for what, wrong_ones in (*outputs, *planted.wrong_outputs(problem, run.right, run.expected)):
        run.refused(what, wrong_ones)


@pytest.mark.parametrize("problem", [
    GatedDelta(4, 2, 32, 4), GatedDelta(1, 1, 64, 3), GatedDelta(4, 2, 32, 4, tokens=9),
    GatedDelta(2, 1, 32, 4, sequences=2, tokens=5),
], ids=lambda p: p.key)  # fmt: skip
def test_a_mistake_of_delta_nets_is_refused(problem: GatedDelta, team: ThreadPool) -> None:
    run = Judged(problem, team)
    for what, wrong in planted_delta.wrong_inputs(problem, run.given):
        run.refused(what, run.outputs(run.built, wrong))
    for what, wrong_ones in (
        *planted_delta.wrong_outputs(problem, run.right), *planted.wrong_outputs(problem, run.right, run.expected),
    ):  # fmt: skip
        run.refused(what, wrong_ones)


class Judged:
    """A problem whose right outputs are within the tolerance."""

    def __init__(self, problem: Problem, team: ThreadPool) -> None:
        self.built, self.team, operation = Built(problem), team, registry.get(problem.op)
        self.given = operation.inputs(problem, 3)
        self.expected = operation.reference(problem, self.given)
        self.limit = operation.tolerance_on("cpu", problem)
        self.right = self.outputs(self.built, self.given)
        verify(self.right, self.expected, self.limit)

    def outputs(self, built: Built, given: Inputs) -> dict[str, np.ndarray]:
        return outputs_of(built.run(Inputs(given.weights, fresh(given)), self.team), self.expected)

    def refused(self, what: str, outputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(WrongResult):
            verify(outputs, self.expected, self.limit)
            pytest.fail(what)
