"""Products of packed matrices with many tokens in Triton's interpreter, by every algorithm, against float64."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from some_formats import few
from torch import Tensor

from kernel_templates import formats, registry
from kernel_templates.cuda import fragments, library, thin, weights, wide
from kernel_templates.cuda.fragments import NATURAL, ORDERS, THIN, WIDE
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.weights import Planes
from kernel_templates.device import Device
from kernel_templates.matmul import cuda as matmul
from kernel_templates.matmul import reference
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matmul.space import LIBRARY
from kernel_templates.verify import verify

HOPPER = Device("cuda", "any", "9.0", 132, 1 << 34)
QUANTIZED = [name for name, fmt in formats.FORMATS.items() if fmt.quantized]
DRAWN, MOST_STEPS = 2, 24
"""Configurations of a problem, and what they may take: programs times steps of 128 columns, 30 ms each."""


def few_gated() -> list:
    """All formats; in the fast tests two, with quants of four bits and with subscales."""
    return [name if name in ("Q4_0", "Q5_K") else pytest.param(name, marks=pytest.mark.slow) for name in QUANTIZED]


def configured(algorithm: str, **values: Any) -> Mapping[str, Any]:
    return dict(LIBRARY) | {"algorithm": algorithm} | values


@dataclass(frozen=True)
class Case:
    """A problem's inputs, what they must give, and the buffers of one execution."""

    problem: Matmul
    packed: Sequence[Planes]
    expected: Mapping[str, np.ndarray]
    buffers: dict[str, Any]

    @classmethod
    def of(cls, problem: Matmul, **buffers: Any) -> "Case":
        inputs = reference.inputs(problem, 7)
        packed = matmul.pack(problem, {}, inputs.weights, "cpu")
        made = matmul.prepare(problem, inputs, "cpu") | buffers
        return cls(problem, packed, reference.outputs(problem, inputs), made)

    def run(self, config: Mapping[str, Any]) -> None:
        for launch in matmul.launches(self.problem, config, self.packed, self.buffers):
            launch.run(INTERPRETED)
        assert not self.buffers["counters"].any(), "they are zeros again for the next one"

    def check(self, config: Mapping[str, Any]) -> None:
        assert registry.cuda_space(self.problem, HOPPER).broken(config) is None
        self.run(config)
        self.verify(matmul.collect(self.problem, self.buffers))

    def verify(self, got: Mapping[str, np.ndarray]) -> None:
        verify(got, self.expected, reference.tolerance(self.problem))


@pytest.mark.parametrize("name", few(QUANTIZED))
def test_every_format_with_few_tokens(name: str) -> None:
    Case.of(Matmul(13, 512, name, 5)).check(configured("thin"))


@pytest.mark.parametrize("name", few(QUANTIZED))
def test_every_format_with_many_tokens(name: str) -> None:
    Case.of(Matmul(50, 256, name, 17)).check(configured("wide", stages=2, block=32))


@pytest.mark.parametrize("name", few_gated())
def test_every_format_gated(name: str) -> None:
    """Rows of the gate and of what it gates are decoded by the same code as rows of one matrix."""
    Case.of(Matmul(26, 512, name, 3, gate="silu")).check(configured("thin", tiles=2))
    Case.of(Matmul(100, 256, name, 16, gate="gelu")).check(configured("wide", tiles=2))


@pytest.mark.parametrize(
    ("name", "gate"), [("F32", ""), ("F16", "silu"), ("BF16", ""), ("Q4_0", ""), ("Q6_K", "gelu"), ("MXFP4", "silu")]
)
def test_the_library(name: str, gate: str) -> None:
    case = Case.of(Matmul(160, 576 if formats.get(name).block <= 32 else 256, name, 33, gate=gate))
    for size in (case.buffers["expanded"][0].numel(), 48 * case.problem.cols, 17 * case.problem.cols):
        case.buffers["expanded"] = tuple(torch.full((size,), torch.nan, dtype=torch.float16) for _ in range(2))
        case.buffers["y"].fill_(torch.nan)
        case.check(LIBRARY)


def test_the_library_adds_to_what_is_there() -> None:
    """In pieces, each times the factor."""
    case = Case.of(Matmul(80, 96, "Q4_0", 5), add=16.0)
    case.buffers["expanded"] = (torch.full((48 * 96,), torch.nan, dtype=torch.float16),)
    before = torch.randn(5, 80)
    case.buffers["y"].copy_(before)
    assert matmul.adds(LIBRARY)
    case.run(LIBRARY)
    case.verify({"y": ((case.buffers["y"] - before) / 16).numpy().ravel()})
    assert not any(matmul.adds(configured(algorithm)) for algorithm in ("thin", "wide"))


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17, 31, 32])
def test_tokens_of_thin(tokens: int) -> None:
    Case.of(Matmul(11, 160, "Q4_0", tokens)).check(configured("thin", warps=2))


@pytest.mark.parametrize("tiles", [1, 2])
def test_a_step_in_one_product(tiles: int) -> None:
    Case.of(Matmul(70, 512, "Q4_K", 17)).check(configured("wide", stages=2, block=32, tiles=tiles, parts=1))


@pytest.mark.parametrize("tokens", [16, 17, 31, 32, 33])
def test_tokens_of_wide(tokens: int) -> None:
    """In blocks that they fill, that they do not, and several of them."""
    Case.of(Matmul(33, 96, "Q4_0", tokens)).check(configured("wide", block=16))
    if tokens > 16:
        Case.of(Matmul(33, 96, "Q8_0", tokens)).check(configured("wide", block=32))


@pytest.mark.parametrize(("rows", "cols"), [(16, 576), (18, 32), (34, 160)])
@pytest.mark.parametrize("gate", ["", "silu"])
@pytest.mark.parametrize("algorithm", ["thin", "wide"])
def test_rows_and_columns_that_fill_nothing(algorithm: str, gate: str, rows: int, cols: int) -> None:
    case = Case.of(Matmul(rows, cols, "Q4_1", 16, gate=gate))
    case.check(configured(algorithm, tiles=2 if gate else 1, ahead=2))


@pytest.mark.parametrize(("algorithm", "split"), [("thin", 2), ("thin", 3), ("thin", 6), ("wide", 3), ("wide", 4)])
def test_programs_share_columns(algorithm: str, split: int) -> None:
    """By turns with and without a gate; of 7 groups of columns shares are unequal, and the last group is a half."""
    problem = Matmul(80 if algorithm == "wide" else 20, 832, "Q4_0", 16, gate="silu" if split % 2 == 0 else "")
    case = Case.of(problem)
    config = configured(algorithm, tiles=1 if split % 2 else 2, split=split)
    needed = matmul.scratch_size(problem, config)
    assert needed <= matmul.most_scratch(problem)
    case.check(config)
    assert case.buffers["matmul_scratch"][needed:].isnan().all(), "it writes past what it says it needs"


@pytest.mark.parametrize(("name", "tokens", "gate"), [("Q4_0", 3, "silu"), ("Q5_K", 20, ""), ("Q4_K", 40, "")])
def test_any_configuration(name: str, tokens: int, gate: str) -> None:
    problem = Matmul(40, 256, name, tokens, gate=gate)
    space, random, case, done = registry.cuda_space(problem, HOPPER), Random(tokens), Case.of(problem), 0
    while done < DRAWN:
        config = space.draw(random)
        if config is None or config["algorithm"] == "library" or steps(case, config) > MOST_STEPS:
            continue
        case.buffers["y"].fill_(torch.nan)
        case.check(config)
        done += 1


def steps(case: Case, config: Mapping[str, Any]) -> int:
    """Of 128 columns and one tile of one warp, that all programs take together."""
    (launch,) = matmul.launches(case.problem, config, case.packed, case.buffers)
    return launch.grid[0] * config["tiles"] * -(-case.problem.cols // 128)


@pytest.mark.parametrize(("algorithm", "tokens"), [("library", 3), ("thin", 3), ("wide", 16)])
def test_rows_of_results_may_lie_apart(algorithm: str, tokens: int) -> None:
    problem = Matmul(40, 96, "Q4_0", tokens)
    whole = torch.full((tokens, 64), torch.nan)
    case = Case.of(problem, y=whole[:, 8:48])
    case.run(configured(algorithm))
    case.verify({"y": whole[:, 8:48].numpy().ravel()})
    assert whole[:, :8].isnan().all() and whole[:, 48:].isnan().all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("algorithm", "tokens", "split"), [("library", 5, 1), ("thin", 5, 1), ("wide", 16, 2)])
def test_gated_results_in_every_order(algorithm: str, tokens: int, split: int, order: int) -> None:
    """96 rows are no whole group of 128: the places that no row has stay as they are, zeros."""
    problem = Matmul(192, 160, "Q8_0", tokens, gate="gelu")
    y = torch.zeros(tokens, fragments.width(96, order), dtype=torch.float16)
    case = Case.of(problem, y=y, y_order=order)
    tiles = {"library": 1, "thin": 4, "wide": 2}[algorithm]
    case.run(configured(algorithm, tiles=tiles, split=split))
    places = fragments.places(96, order)
    case.verify({"y": (y[:, places].float() / GATED_SCALE.value).numpy().ravel()})
    y[:, places] = 0
    assert not y.any()


def test_thin_reads_tokens_in_natural_order() -> None:
    case = Case.of(Matmul(24, 160, "Q4_0", 5))
    (planes,), b = case.packed, case.buffers
    scratch, counters = b["matmul_scratch"], b["counters"]
    for order in (NATURAL, THIN):
        y = torch.full((5, 24), torch.nan)
        how = {"tokens": 5, "order": order, "tiles": 2, "warps": 1, "ahead": 1, "split": 2}
        thin.launch(planes, b["x"][order], y, scratch, counters, **how).run(INTERPRETED)
        case.verify({"y": y.numpy().ravel()})


@pytest.mark.parametrize("algorithm", ["library", "thin", "wide"])
def test_matrices_of_one_pack_are_one_product(algorithm: str) -> None:
    case = Case.of(Matmul(80, 96, "Q4_0", 16))
    parts = replace(case, packed=weights.split(case.packed[0], (48, 16, 16)))
    parts.check(configured(algorithm))


def test_matrices_apart_are_for_the_library() -> None:
    case = Case.of(Matmul(80, 96, "Q4_0", 16))
    (planes,) = case.packed
    above = Planes(planes.format, 32, 96, tuple(t[:32].clone() for t in planes.tensors))
    below = Planes(planes.format, 48, 96, tuple(t[32:].clone() for t in planes.tensors))
    apart = replace(case, packed=(above, below))
    apart.check(LIBRARY)
    for algorithm in ("thin", "wide"):
        with pytest.raises(ValueError, match="apart in memory"):
            apart.run(configured(algorithm))


@pytest.mark.parametrize(("algorithm", "tokens"), [("library", 3), ("thin", 3), ("wide", 16)])
def test_what_is_too_large_for_float16_is_its_largest_number(algorithm: str, tokens: int) -> None:
    problem = Matmul(64, 128, "Q8_0", tokens, gate="silu")
    case = Case.of(problem)
    for order in ORDERS:
        case.buffers["x"][order] *= 3000
    case.run(configured(algorithm, tiles=1 if algorithm == "library" else 2))
    y = case.buffers["y"].float()
    assert y.isfinite().all() and y.max() == 65504 and y.min() == -65504


@pytest.mark.parametrize(("algorithm", "tokens"), [("thin", 4), ("wide", 16)])
def test_a_token_that_is_no_number_spoils_only_itself(algorithm: str, tokens: int) -> None:
    for gate in ("", "silu"):
        case = Case.of(Matmul(64, 128, "Q4_0", tokens, gate=gate))
        for order in ORDERS:
            case.buffers["x"][order][1] = torch.nan
        case.run(configured(algorithm, tiles=2))
        assert torch.equal(case.buffers["y"].isnan().any(1), torch.arange(tokens) == 1)
        assert case.buffers["y"][1].isnan().all()


@triton.jit
def every_place(places, ORDER: tl.constexpr):
    c = tl.arange(0, 1024)
    tl.store(places + c, fragments.place(c, ORDER))


@pytest.mark.parametrize("order", ORDERS)
def test_every_column_has_a_place_of_its_own(order: int) -> None:
    """Groups of 128 are alike: eight of them stand for all. Torch and kernels agree on them."""
    places = torch.empty(1024, dtype=torch.int32)
    every_place[(1,)](places, ORDER=order)
    c = torch.arange(1024)
    assert torch.equal(places.long().sort().values, c) and torch.equal(places.long() // 128, c // 128)
    assert torch.equal(fragments.places(1024, order), places.long())


def test_each_algorithm_says_its_order() -> None:
    orders = {name: matmul.order(configured(name)) for name in ("library", "thin", "wide")}
    assert orders == {"library": NATURAL, "thin": THIN, "wide": WIDE}


def test_the_library_cuts_what_no_buffer_holds() -> None:
    """In pieces of whole 16 rows, each in the next buffer from `turn` on."""
    (planes,) = matmul.pack(
        Matmul(80, 32, "Q4_0", 1), {}, reference.inputs(Matmul(80, 32, "Q4_0", 1), 0).weights, "cpu"
    )
    buffers = [torch.empty(40 * 32, dtype=torch.float16) for _ in range(2)]
    x, y = torch.ones(1, 32, dtype=torch.float16), torch.empty(1, 80)
    made = list(library.product("one", [planes], x, y, buffers, 1))
    assert [launch.name for launch in made] == ["expand", "one"] * 3
    expanded: list[Tensor] = [launch.out for launch in made[::2]]
    assert [len(out) for out in expanded] == [32, 32, 16]
    assert [out.data_ptr() for out in expanded] == [buffers[i].data_ptr() for i in (1, 0, 1)]


def test_scratch_pads_tokens() -> None:
    shape = Planes("Q4_0", 64, 256, ())
    blocks = 1 * 2  # of 64 rows, of 16 tokens
    assert wide.scratch_size(shape, 17, "", 16, 1, 4, 2) == blocks * 2 * (64 * 16)
    assert wide.scratch_size(shape, 17, "", 16, 1, 4, 1) == 1
    blocks = 4  # of 16 rows, all tokens
    assert thin.scratch_size(shape, 17, "", 1, 2) == blocks * 2 * (16 * 32)
