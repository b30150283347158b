"""The kernels between matrix products of many tokens, in Triton's interpreter, against float64."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_formats import few
from torch import Tensor

from kernel_templates import formats, random_inputs
from kernel_templates.cuda import fragments, pages
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.gating import GATED_SCALE
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.cuda.rows import add_norm, append, embed, output_gate, take_row
from kernel_templates.cuda.rows.gate import gate
from kernel_templates.cuda.vector import Vector

EPS = 1e-6
HALF = 2**-11
"""float16 rounds to so much of a number."""
LARGEST = 65504.0


def numbers(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=made) * size


def poison(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def normed(x: Tensor, weight: Tensor, eps: float = EPS) -> Tensor:
    """float64."""
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def assert_near(found: Tensor, wanted: Tensor, relative: float, absolute: float = 1e-6) -> None:
    off = (found.double() - wanted.double()).abs()
    assert (off <= wanted.double().abs() * relative + absolute).all(), float(off.max())


@pytest.mark.parametrize("name", few(list(formats.FORMATS)))
@pytest.mark.parametrize("scale", [1.0, 5.5])
def test_embeddings_are_the_format_s(name: str, scale: float) -> None:
    """1280 columns: a whole program and a part of one; tokens outside the vocabulary read its ends."""
    weight = random_inputs.weight(7, 1280, name, np.random.default_rng(1))
    tokens = torch.tensor([3, 6, 0, -1, 9], dtype=torch.int32)
    x = poison(5, 1280, dtype=torch.float32)
    embed.launch(Embedding(weight.raw, name, 1280, scale), tokens, x).run(INTERPRETED)
    wanted = formats.get(name).dequantize(weight.raw)[tokens.long().clamp(0, 6)]
    assert torch.equal(x, wanted * scale)


SIZES = st.sampled_from([32, 96, 576, 1024, 1536])


@settings(max_examples=12)
@given(
    hidden=SIZES, rows=st.integers(1, 4), branch=st.sampled_from(["", "plain", "post"]), last=st.booleans(),
    bias=st.booleans(), scaled=st.booleans(), factor=st.sampled_from([1.0, 16.0]), seed=st.integers(0, 99),
    tile=st.sampled_from([256, add_norm.TILE]),
)  # fmt: skip
def test_branches_are_added_and_normed(
    hidden: int, rows: int, branch: str, last: bool, bias: bool, scaled: bool, factor: float, seed: int, tile: int
) -> None:
    """tile: also rows that do not fit registers."""
    last = last and branch != ""
    x, y = numbers(rows, hidden, seed=seed), numbers(rows, hidden, seed=seed + 1, size=0.3)
    post, weight = numbers(hidden, seed=seed + 2), numbers(hidden, seed=seed + 3)
    found, out = x.clone(), poison(rows + 1, hidden)
    plus = numbers(hidden, seed=seed + 4) if bias else None
    times = torch.tensor([-1.75]) if scaled else None
    named = {"post_norm": post if branch == "post" else None, "bias": plus, "out_scale": times}
    added = add_norm.Branch(y, factor, **named) if branch else None
    after = None if last else add_norm.Norm(weight, out[:rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(add_norm, "TILE", tile)
        add_norm.launch("add_norm", found, added, after, EPS).run(INTERPRETED)
    step = y.double() * factor + (0.0 if plus is None else plus.double())
    wanted = x.double() + {"": 0.0, "plain": step, "post": normed(step, post)}[branch]
    wanted *= -1.75 if scaled and branch else 1.0
    assert_near(found, wanted, 1e-6, 1e-5)
    if last:
        assert out.isnan().all()
    else:
        assert_near(out[:rows], normed(wanted, weight), 2 * HALF, 1e-5)
        assert out[rows:].isnan().all()
    assert branch or torch.equal(found, x)


def test_huge_rows_stay_finite_in_float16() -> None:
    x, weight, out = torch.zeros(2, 64), torch.full((64,), 1e5), poison(2, 64)
    x[0, :2] = torch.tensor([3e8, -3e8])
    add_norm.launch("add_norm", x, None, add_norm.Norm(weight, out), EPS).run(INTERPRETED)
    assert out[0, :2].tolist() == [LARGEST, -LARGEST] and not out[1].any()


def test_broken_numbers_are_not_hidden() -> None:
    x, out = torch.zeros(1, 64), poison(1, 64)
    x[0, 5] = torch.nan
    add_norm.launch("add_norm", x, None, add_norm.Norm(torch.ones(64), out), EPS).run(INTERPRETED)
    assert out.isnan().all()


@pytest.mark.parametrize("function", ["silu", "gelu"])
@pytest.mark.parametrize("width", [32, 1152])
def test_gates(function: str, width: int) -> None:
    y, out = numbers(3, 2 * width, size=3.0), poison(4, width)
    y[0, :3], y[0, width : width + 3] = torch.tensor([1e4, -1e4, 300.0]), torch.tensor([-1e4, 1e4, 300.0])
    gate(y, out[:3], function).run(INTERPRETED)
    g, u = y.double().split(width, 1)
    act = torch.nn.functional.silu(g) if function == "silu" else torch.nn.functional.gelu(g, approximate="tanh")
    assert_near(out[:3], (act * u * GATED_SCALE.value).clamp(-LARGEST, LARGEST), 2 * HALF)
    assert out[0, 0] == -LARGEST and out[0, 1] == 0 and out[3].isnan().all()


@pytest.mark.parametrize("function", ["silu", "gelu"])
def test_gates_of_float16(function: str) -> None:
    """Times GATED_SCALE as they come from the library, which makes infinite what is too large."""
    y, out = numbers(2, 2 * 160, size=3.0), poison(2, 160)
    y[0, :4], y[0, 160:164] = torch.tensor([2e6, -2e6, 2e6, 3.0]), torch.tensor([1.0, 1.0, 0.0, -2e6])
    half = (y * GATED_SCALE.value).half()
    assert half[0, 0].isinf() and half[0, 163].isinf()
    gate(half, out, function).run(INTERPRETED)
    g, u = (half.double().clamp(-LARGEST, LARGEST) / GATED_SCALE.value).split(160, 1)
    act = torch.nn.functional.silu(g) if function == "silu" else torch.nn.functional.gelu(g, approximate="tanh")
    assert_near(out, (act * u * GATED_SCALE.value).clamp(-LARGEST, LARGEST), 2 * HALF)
    half[1, 7] = torch.nan
    gate(half, out, function).run(INTERPRETED)
    assert out[1, 7].isnan() and out.isnan().sum() == 1


@dataclass(frozen=True)
class Case:
    """A kind of layer's heads, and where rows of three texts stand."""

    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    qk_norm: bool
    bias: bool
    positions: tuple[int, ...]
    sequences: tuple[int, ...]
    output_gate: bool = False


LAYERS, LAYER, CAPACITY = 3, 1, 150


def check_append(case: Case, seed: int = 0) -> None:
    """Against float64, in pages of three texts that lie in disorder; nothing else of the cache changes."""
    c, rows = case, len(case.positions)
    total = c.heads + 2 * c.kv_heads
    qkv, bias = numbers(rows, total * c.head_dim, seed=seed), numbers(total * c.head_dim, seed=seed + 1)
    norms = (numbers(c.head_dim, seed=seed + 2), numbers(c.head_dim, seed=seed + 3))
    angles = torch.linspace(0, 50, CAPACITY * c.rope_dim // 2).view(CAPACITY, -1)
    rope = torch.cat([angles.cos(), angles.sin()], 1)
    per_text = -(-CAPACITY // pages.PAGE)
    order = torch.randperm(3 * per_text, generator=torch.Generator().manual_seed(seed)).view(3, per_text)
    page = LAYERS * 2 * c.kv_heads * pages.PAGE * c.head_dim
    memory = poison(3 * per_text, LAYERS, 2, c.kv_heads, pages.PAGE, c.head_dim)
    layer_stride, values, head_stride = memory.stride()[1:4]
    cache = pages.PagedCache(memory, order * page, LAYER * layer_stride, values, head_stride)
    q = poison(rows + 1, c.heads, c.head_dim)
    given_rows = {
        "qkv": gated(qkv, c), "q": q[:rows], "positions": torch.tensor(c.positions, dtype=torch.int32),
        "sequences": torch.tensor(c.sequences, dtype=torch.int32),
    }  # fmt: skip
    how = append.Heads(
        c.heads, c.kv_heads, c.head_dim, rope, EPS, gated(bias[None], c)[0] if c.bias else None,
        norms if c.qk_norm else None, c.output_gate,
    )  # fmt: skip
    append.launch(how, given_rows, cache).run(INTERPRETED)

    made = (qkv.double() + (bias.double() if c.bias else 0.0)).view(rows, total, c.head_dim)
    wanted_q, wanted_k, wanted_v = made.split([c.heads, c.kv_heads, c.kv_heads], 1)
    if c.qk_norm:
        wanted_q, wanted_k = normed(wanted_q, norms[0]), normed(wanted_k, norms[1])
    changed = torch.zeros_like(memory, dtype=torch.bool)
    for r, (position, text) in enumerate(zip(c.positions, c.sequences, strict=True)):
        if position < 0:
            continue
        assert_near(q[r], turned(wanted_q[r], rope[position], c.rope_dim), 2 * HALF, 1e-4)
        at = (int(order[text, position // pages.PAGE]), LAYER, slice(None), slice(None), position % pages.PAGE)
        changed[at] = True
        assert_near(memory[at][0], turned(wanted_k[r], rope[position], c.rope_dim), 2 * HALF, 1e-4)
        assert_near(memory[at][1], wanted_v[r], 2 * HALF)
    assert memory[~changed].isnan().all() and q[rows:].isnan().all() and q[:rows].isfinite().all()


def gated(rows: Tensor, c: Case) -> Tensor:
    """Rows of heads with a gate, NaN, behind each query where the case has them."""
    if not c.output_gate:
        return rows
    q, rest = rows.split([c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim], 1)
    heads = q.view(len(rows), c.heads, 1, c.head_dim)
    return torch.cat([torch.cat([heads, torch.full_like(heads, torch.nan)], 2).flatten(1), rest], 1)


def turned(x: Tensor, table: Tensor, rope_dim: int) -> Tensor:
    """x float64 [heads, head_dim] by the row of a table."""
    n = rope_dim // 2
    cos, sin = table.double().split(n)
    a, b, rest = x[:, :n], x[:, n:rope_dim], x[:, rope_dim:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], 1)


@settings(max_examples=10)
@given(data=st.data())
def test_heads_of_every_kind_are_appended(data: st.DataObject) -> None:
    kv_heads, group = data.draw(st.sampled_from([(1, 1), (1, 7), (2, 2), (3, 3), (4, 1)]))
    head_dim = data.draw(st.sampled_from([16, 32, 64, 80, 96, 128, 256]))
    rope_dim = data.draw(st.sampled_from([head_dim, head_dim // 2, head_dim * 3 // 4 // 2 * 2]))
    rows = data.draw(st.integers(1, 4))
    text = st.tuples(st.integers(-1, CAPACITY - 1), st.integers(0, 2))
    places = data.draw(st.lists(text, min_size=rows, max_size=rows, unique=True))
    positions, sequences = zip(*places, strict=True)
    qk_norm, bias = data.draw(st.booleans()), data.draw(st.booleans())
    case = Case(kv_heads * group, kv_heads, head_dim, rope_dim, qk_norm, bias, positions, sequences)
    check_append(case, data.draw(st.integers(0, 99)))


NAMED = {
    "a row that is not used": Case(2, 1, 64, 64, True, False, (5, -1, 7), (0, 0, 0)),
    "no row is used": Case(2, 1, 64, 64, True, True, (-1, -1), (0, 2)),
    "the ends of a page and of the context": Case(2, 2, 32, 32, False, False, (63, 64, 149), (1, 1, 1)),
    "a part of the head turns": Case(4, 2, 96, 48, True, True, (9, 10), (0, 0)),
    "more heads than a program takes": Case(20, 4, 256, 256, True, False, (3,), (2,)),
    "the same position of two texts": Case(3, 1, 128, 128, False, True, (40, 40), (0, 2)),
    "a gate behind each query": Case(4, 2, 32, 8, True, True, (40, -1, 3), (0, 0, 2), output_gate=True),
}


@pytest.mark.parametrize("name", NAMED)
def test_edges_of_appending(name: str) -> None:
    check_append(NAMED[name])


def test_layers_turn_by_their_own_table() -> None:
    """Two ropes in one model: what differs is the table alone."""
    qkv = numbers(1, 3 * 32)
    found = []
    for angle in (0.3, 0.9):
        angles = torch.full((8, 16), angle)
        how = append.Heads(1, 1, 32, torch.cat([angles.cos(), angles.sin()], 1), EPS)
        memory = torch.zeros(1, 2, 1, 8, 32, dtype=torch.float16)
        rows = {
            "qkv": qkv, "q": poison(1, 1, 32), "positions": torch.tensor([4], dtype=torch.int32),
            "sequences": torch.zeros(1, dtype=torch.int32),
        }  # fmt: skip
        append.launch(how, rows, pages.in_one_piece(memory)[0]).run(INTERPRETED)
        assert_near(memory[0, 0, :, 4], turned(qkv.double().view(3, 32)[1:2], how.rope[4], 32), 2 * HALF, 1e-4)
        found.append(rows["q"])
    assert not torch.equal(*found)


@pytest.mark.parametrize("hidden", [64, 288])
def test_a_row_becomes_a_vector(hidden: int) -> None:
    x, norm = numbers(hidden), numbers(hidden, seed=1)
    found, wanted = Vector.allocate(hidden, "cpu"), Vector.allocate(hidden, "cpu")
    take_row.launch(x, norm, found, "int16").run(INTERPRETED)
    wanted.fill(x, norm)
    assert torch.equal(found.values, x)
    assert_near(found.quantized(), wanted.quantized(), 1e-4, 1e-4)
    assert_near(found.squares, wanted.squares, 1e-6)


@pytest.mark.parametrize("order", fragments.ORDERS)
def test_what_attention_gives_is_gated(order: int) -> None:
    """In every order of columns; of a row's heads the keys and values lie behind all gates."""
    heads, dim = 3, 32
    qkv, y = numbers(2, 2 * heads * dim + 2 * dim, size=3.0), numbers(2, heads * dim, seed=1).half()
    out = fragments.arranged(y, order)
    output_gate.launch(qkv, out, heads, dim, order).run(INTERPRETED)
    gate = qkv[:, : 2 * heads * dim].view(2, heads, 2, dim)[:, :, 1].flatten(1)
    found = out[:, fragments.places(heads * dim, order)]
    assert_near(found, y.double() * gate.double().sigmoid(), HALF)
