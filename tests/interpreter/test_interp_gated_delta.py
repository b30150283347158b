"""Gated delta nets in Triton's interpreter against float64: rows alone, one after the other, by chunks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_templates.cuda import fragments
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.vector import Vector
from kernel_templates.device import Device
from kernel_templates.gated_delta import cuda, reference
from kernel_templates.gated_delta import space as spaces
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.operation import Inputs
from kernel_templates.space import Config
from kernel_templates.verify import relative_error, verify

ANY = Device("cuda", "any", "9.0", 8, 1 << 34)
FLOAT32 = 3e-6
"""Of rows whose numbers are float32 throughout."""
CHUNKED = 1.2e-3
"""Of the state and of heads behind chunks, whose products read float16."""


def config_of(problem: GatedDelta, **wanted: Any) -> Config:
    space = spaces.cuda(problem, ANY)
    config = Config({**space.default, **wanted})
    assert space.broken(config) is None
    return config


def run(problem: GatedDelta, config: Config, inputs: Inputs, **buffers: Any) -> dict[str, np.ndarray]:
    prepared = cuda.prepare(problem, inputs, "cpu") | buffers
    for launch in cuda.launches(problem, config, (), prepared):
        launch.run(INTERPRETED)
    return cuda.collect(problem, prepared)


def with_buffers(inputs: Inputs, **changed: np.ndarray) -> Inputs:
    return replace(inputs, buffers={**inputs.buffers, **changed})


def errors(problem: GatedDelta, config: Config, inputs: Inputs) -> dict[str, float]:
    got, wanted = run(problem, config, inputs), reference.outputs(problem, inputs)
    return {name: relative_error({name: got[name]}, {name: wanted[name]}) for name in wanted}


SHAPES = st.builds(
    lambda key_heads, times, head_dim, kernel: GatedDelta(key_heads * times, key_heads, head_dim, kernel),
    st.just(1), st.integers(1, 2), st.sampled_from([8, 16, 24, 32]), st.integers(2, 4),
)  # fmt: skip


@settings(max_examples=8)
@given(problem=SHAPES, position=st.integers(0, 9), columns=st.sampled_from([8, 16]), seed=st.integers(0, 99))
def test_a_token_is_float32(problem: GatedDelta, position: int, columns: int, seed: int) -> None:
    """Also where the text begins, and the convolution reaches back before it; one program or several a head."""
    columns = min(columns, spaces.power_of_two(problem.head_dim))
    inputs = with_buffers(reference.inputs(problem, seed), position=np.array([position], np.int64))
    found = errors(problem, config_of(problem, columns=columns, warps=1), inputs)
    assert max(found.values()) <= FLOAT32, found


@pytest.mark.parametrize("activation", ["int16", "int8"])
def test_a_token_is_left_quantized(activation: str) -> None:
    problem = GatedDelta(4, 2, 16, 4)
    prepared = cuda.prepare(problem, reference.inputs(problem, 1), "cpu")
    (launch,) = cuda.launches(problem, config_of(problem), (), prepared, activation)
    launch.run(INTERPRETED)
    out, wanted = prepared["out"], Vector.allocate(64, "cpu")
    wanted.fill(out.values, None, activation)
    assert torch.equal(out.high, wanted.high) and torch.allclose(out.scale, wanted.scale)


def test_counters_are_zero_for_the_next_token() -> None:
    problem = GatedDelta(4, 2, 16, 4)
    prepared = cuda.prepare(problem, reference.inputs(problem, 1), "cpu")
    counters = prepared["delta_counters"] = torch.zeros(4, dtype=torch.int32)
    (launch,) = cuda.launches(problem, config_of(problem, columns=8), (), prepared)
    launch.run(INTERPRETED)
    assert launch.grid == (4, 2) and not counters.any()


ROWS = st.tuples(st.integers(1, 2), st.integers(1, 5)).filter(lambda sizes: sizes != (1, 1))


@settings(max_examples=6)
@given(problem=SHAPES, sizes=ROWS, first=st.sampled_from([0, 1, 3, 50]), seed=st.integers(0, 99))
def test_few_rows_are_float32(problem: GatedDelta, sizes: tuple[int, int], first: int, seed: int) -> None:
    """All but their last rounding to float16."""
    problem = replace(problem, sequences=sizes[0], tokens=sizes[1])
    inputs = with_buffers(reference.inputs(problem, seed), position=np.array([first], np.int64))
    inputs.buffers["positions"][:] = first + np.arange(problem.rows) % problem.tokens
    found = errors(problem, config_of(problem, algorithm="recurrent"), inputs)
    assert found["state"] <= FLOAT32 and found["conv_state"] == 0 and found["out"] <= 2**-11, found


@settings(max_examples=6)
@given(
    problem=SHAPES.filter(lambda p: p.head_dim >= 16), tokens=st.integers(8, 40), sequences=st.integers(1, 2),
    chunk=st.sampled_from([16, 32, 64]), first=st.sampled_from([0, 2, 50]), seed=st.integers(0, 99),
)  # fmt: skip
def test_chunks_are_the_recurrence(
    problem: GatedDelta, tokens: int, sequences: int, chunk: int, first: int, seed: int
) -> None:
    """Of lengths that do not divide into chunks, from states that hold something, in heads of odd sizes."""
    problem = replace(problem, sequences=sequences, tokens=tokens)
    chunk = min(chunk, spaces.power_of_two(max(tokens, 16)))
    inputs = reference.inputs(problem, seed)
    inputs.buffers["positions"][:] = first + np.arange(problem.rows) % tokens
    config = config_of(problem, algorithm="chunked", chunk=chunk, columns=16)
    got, wanted = run(problem, config, inputs), reference.outputs(problem, inputs)
    verify(got, wanted, reference.tolerance(problem))
    assert relative_error({"state": got["state"]}, {"state": wanted["state"]}) <= CHUNKED


@settings(max_examples=6)
@given(
    rates=st.lists(st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 50.0, 1e4]), min_size=2, max_size=2),
    gates=st.sampled_from([-30.0, 0.0, 30.0]), algorithm=st.sampled_from(["recurrent", "chunked"]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_decays_and_gates_of_every_size(rates: list[float], gates: float, algorithm: str, seed: int) -> None:
    """Heads that forget nothing or all at once, rows that write nothing or all, together in one call."""
    problem = GatedDelta(2, 1, 16, 4, tokens=19)
    inputs = with_buffers(reference.inputs(problem, seed), decay=-np.array(rates, np.float32))
    projected = inputs.buffers["projected"][: problem.rows * problem.projected_size].reshape(problem.rows, -1)
    projected[::2, -4:-2] += gates
    config = config_of(problem, algorithm=algorithm, **({"chunk": 16} if algorithm == "chunked" else {"chunk": 64}))
    found = errors(problem, config, inputs)
    limit = CHUNKED if algorithm == "chunked" else FLOAT32
    assert found["state"] <= limit and found["out"] <= 2e-3, found


@pytest.mark.parametrize("chunk", [16, 64])
def test_keys_that_are_all_alike(chunk: int) -> None:
    """Powers of the matrix between a chunk's rows would be as large as binomial coefficients: 10^17 of 64."""
    problem = GatedDelta(1, 1, 16, 2, tokens=64)
    inputs = with_buffers(reference.inputs(problem, 3), decay=np.zeros(1, np.float32))
    projected = inputs.buffers["projected"][: problem.rows * problem.projected_size].reshape(problem.rows, -1)
    projected[:, 16:32] = projected[0, 16:32]
    projected[:, -2] = 30.0
    found = errors(problem, config_of(problem, algorithm="chunked", chunk=chunk), inputs)
    assert max(found.values()) <= CHUNKED, found


@pytest.mark.parametrize("algorithm", ["recurrent", "chunked"])
def test_rows_that_are_not_used_change_nothing(algorithm: str) -> None:
    """The last of a text, and all of another one; what the used ones give does not depend on them."""
    problem = GatedDelta(2, 1, 16, 4, sequences=2, tokens=10)
    inputs = reference.inputs(problem, 5)
    positions = inputs.buffers["positions"].reshape(2, 10)
    positions[0, 7:], positions[1] = -1, -1
    inputs.buffers["projected"].reshape(-1)[: problem.rows * problem.projected_size].reshape(2, 10, -1)[0, 7:] = 1e6
    chunk = {"chunk": 16} if algorithm == "chunked" else {}
    got = run(problem, config_of(problem, **{"algorithm": algorithm, "chunk": 64, **chunk}), inputs)
    verify(got, reference.outputs(problem, inputs), reference.tolerance(problem))
    text = int(inputs.buffers["sequences"][10])
    for name in ("state", "conv_state"):
        assert np.array_equal(got[name][text], inputs.buffers[name][text])
    assert np.isfinite(got["out"]).all()


def test_passes_follow_each_other() -> None:
    """A prompt in pieces of unlike lengths, then tokens alone, is the reference's one sequence of rows."""
    whole = GatedDelta(2, 2, 16, 4, tokens=41)
    inputs = reference.inputs(whole, 9)
    inputs.buffers["positions"][:] = np.arange(41)
    wanted = reference.outputs(whole, inputs)
    states = {"conv_state": torch.full((1, 4, whole.channels), torch.nan)}
    states["state"] = torch.full((1, 2, 16, 16), torch.nan)  # position 0 begins a text: nothing is read
    given_rows = inputs.buffers["projected"][: 41 * whole.projected_size].reshape(41, -1)
    made, first = [], 0
    for tokens in (2, 1, 25, 3, 9, 1):
        problem = replace(whole, tokens=tokens)
        buffers: Mapping[str, np.ndarray] = inputs.buffers | {
            "projected": given_rows[first : first + tokens], "position": np.array([first], np.int64),
            "positions": np.arange(first, first + tokens, dtype=np.int32), "sequences": np.zeros(tokens, np.int32),
        }  # fmt: skip
        made.append(run(problem, config_of(problem), Inputs({}, buffers), **states)["out"])
        first += tokens
    got = {"out": np.concatenate(made), "state": states["state"].transpose(2, 3).contiguous().numpy()}
    verify(got, wanted, reference.tolerance(whole))
    assert np.array_equal(states["conv_state"].numpy(), wanted["conv_state"].astype(np.float32))


def test_out_in_the_order_of_columns_that_a_product_reads() -> None:
    problem = GatedDelta(3, 1, 32, 4, tokens=2)
    inputs, found = reference.inputs(problem, 2), {}
    for order in fragments.ORDERS:
        out = torch.zeros((2, fragments.width(96, order)), dtype=torch.float16)
        run(problem, config_of(problem), inputs, out=out, out_order=order)
        found[order] = out[:, fragments.places(96, order)]
    assert all(torch.equal(out, found[fragments.NATURAL]) for out in found.values())


def test_proofs_move_all_texts() -> None:
    problem = GatedDelta(2, 1, 16, 4, sequences=2, tokens=3)
    prepared = cuda.prepare(problem, reference.inputs(problem, 0), "cpu")
    prepared["position"].fill_(7)
    assert prepared["positions"].tolist() == [7, 8, 9, 7, 8, 9]
