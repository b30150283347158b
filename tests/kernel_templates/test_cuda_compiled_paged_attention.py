"""Attention over many rows compiled for chips that are not here: what the machine code does."""

import os
import re
from dataclasses import replace

import pytest
import torch
from compiled_once import cross_compile

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from autotune.profiling import kernel_table
from autotune.runner.meta_problem import MetaProblem
from kernel_templates import registry
from kernel_templates.cuda.pages import in_one_piece
from kernel_templates.cuda.rows.append import Heads
from kernel_templates.device import Device
from kernel_templates.paged_attention import cuda, space
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Config

DEVICES = {
    75: Device("cuda", "Tesla T4", "7.5", 40, 16 << 30),
    80: Device("cuda", "NVIDIA A100-SXM4-80GB", "8.0", 108, 80 << 30),
    90: Device("cuda", "NVIDIA H200", "9.0", 132, 140 << 30),
}
IN_TILES = {"algorithm": "tiles", "rows": 16, "tile": 64, "warps": 4, "stages": 3, "splits": 2}
QWEN3_8B, QWEN3_06B, SMOLLM2 = (32, 8, 128), (16, 8, 128), (9, 3, 64)
GEMMA3, PHI3, WIDE = (4, 1, 256), (32, 32, 96), (32, 8, 80)


def on_two_chips(cases, older):
    """(case, capability): all on Hopper; on Ampere, which has the same registers and for few rows the same products,
    the one that is named, in the slow tests all."""
    marks = {case: [] if case == older else [pytest.mark.slow] for case in cases}
    on_ampere = [pytest.param(case, 80, marks=marks[case]) for case in cases]
    return [*on_ampere, *((case, 90) for case in cases)]


def named(case):
    return getattr(case, "key", str(case))


def compiled(problem, capability, **changes):
    """Machine code of every kernel, in the default configuration or with changes to it."""
    found = space.cuda(problem, DEVICES[capability])
    config = Config({**found.default, **changes})
    assert found.broken(config) is None
    made = [cross_compile(launch, capability) for launch in MetaProblem(problem).launches(config)]
    assert capability < 80 or made[0].shared <= space.shared_bytes(problem, config), "the space's bound is too low"
    return made


def copies(code):
    """Bytes of each asynchronous copy into shared memory of 4 bytes or more, as the compiled code has them."""
    return [int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?, (0x\w+)[,;]", code.ptx)]


@pytest.mark.parametrize("shape", [QWEN3_8B, QWEN3_06B, SMOLLM2], ids=str)
@pytest.mark.parametrize("capability", [80, 90])
def test_prompts_are_products_of_tensor_cores_over_tiles_on_their_way(shape, capability):
    (code,) = compiled(PagedAttention(1, 2048, *shape, 2048), capability)
    assert code.spills == 0
    assert set(copies(code)) == {16}, "keys and values come 16 bytes at a time"
    assert ("wgmma.mma_async" in code.ptx) == (capability == 90)
    assert ("mma.sync" in code.ptx) == (capability != 90)
    assert "LDGSTS.E.BYPASS" in code.sass
    assert not re.findall(r"ld\.global[.\w]*\.b16", code.ptx), "float16 loaded piece by piece"
    assert ("griddepcontrol.wait" in code.ptx) == (capability >= 90)


FEW_ROWS = (
    PagedAttention(8, 1, *QWEN3_8B, 2048), PagedAttention(32, 1, *QWEN3_06B, 300), PagedAttention(1, 8, *SMOLLM2, 1000),
    PagedAttention(1, 4, *QWEN3_8B, 1000),
)  # fmt: skip


@pytest.mark.parametrize(("problem", "capability"), on_two_chips(FEW_ROWS, FEW_ROWS[3]), ids=named)
def test_few_rows_are_products_too(problem, capability):
    """By default with keys and values from memory to registers, 16 bytes at a time, before the wait."""
    (code,) = compiled(problem, capability)
    assert "mma.sync" in code.ptx and "cp.async" not in code.ptx
    assert "shfl.sync.idx" not in code.ptx, "what a thread loads it multiplies itself"
    assert not re.findall(r"ld\.global[.\w]*\.b16", code.ptx), "float16 loaded piece by piece"
    if capability >= 90:
        *before, _after = code.ptx.split("griddepcontrol.wait")  # once each for the pass's own rows and for tiles
        assert len(before) == 2 and max(part.count("ld.global.v4.b32") for part in before) >= 1
        assert "st.global" not in before[0]
    (tiles,) = compiled(problem, capability, **IN_TILES)
    assert tiles.spills == 0
    assert set(copies(tiles)) == {16} and "mma.sync" in tiles.ptx and "wgmma" not in tiles.ptx


@pytest.mark.parametrize(("shape", "capability"), on_two_chips((QWEN3_06B, SMOLLM2, WIDE), WIDE), ids=named)
def test_tiles_of_16_positions_a_warp_stay_in_registers(shape, capability):
    (code,) = compiled(PagedAttention(2, 2, *shape, 640), capability, tile=64, warps=4, splits=4)
    assert code.spills == 0


@pytest.mark.parametrize("config", [{}, IN_TILES], ids=["registers", "tiles"])
@pytest.mark.parametrize("capability", [80, 90])
def test_splits_are_joined_by_the_last_or_by_a_kernel(capability, config):
    """The count is of integers, after every thread's stores: Triton puts no barrier there by itself."""
    problem = PagedAttention(1, 4, *QWEN3_8B, 1000)
    (code,) = compiled(problem, capability, **config)
    (counting,) = re.findall(r"atom\.[\w.]+", code.ptx)
    assert counting.endswith("add.u32") and "acq_rel" in counting
    before = code.ptx[: code.ptx.index(counting)]
    assert before.rindex("bar.sync") > before.rindex("st.global")
    assert "ld.global.cg" in code.ptx[len(before) :], "parts of others are read past the first-level cache"
    attend, join = compiled(problem, capability, **config, combine="kernel")
    assert "atom" not in attend.ptx and attend.spills == join.spills == 0


def finishing(problem, capability):
    """As `compiled`, with heads of every kind finished there: bias, norms, half of the elements turning."""
    config = space.cuda(problem, DEVICES[capability]).default
    half, norm = torch.float16, torch.zeros(problem.head_dim)
    cache = torch.zeros(1, 2, problem.kv_heads, 256, problem.head_dim, dtype=half)
    total = (problem.heads + 2 * problem.kv_heads) * problem.head_dim
    per_row = {n: torch.zeros(problem.rows, dtype=torch.int32) for n in ("positions", "sequences")}
    rope = torch.zeros(256, problem.head_dim // 2)
    buffers = {
        **per_row, "paged": in_one_piece(tuple(cache))[0],
        "out": torch.zeros(problem.rows, problem.heads * problem.head_dim, dtype=half),
        "qkv": torch.zeros(problem.rows, total),
        "finish": Heads(problem.heads, problem.kv_heads, problem.head_dim, rope, 1e-6, torch.ones(total), (norm, norm)),
    }  # fmt: skip
    (launch,) = cuda.launches(problem, config, (), buffers)
    return cross_compile(launch, capability)


FINISHED = (
    PagedAttention(8, 1, *QWEN3_8B, 2048), PagedAttention(32, 1, *QWEN3_06B, 300),
    PagedAttention(1, 8, *QWEN3_06B, 1000), PagedAttention(8, 1, *SMOLLM2, 700), PagedAttention(1, 4, *QWEN3_8B, 1000),
)  # fmt: skip


@pytest.mark.parametrize(("problem", "capability"), on_two_chips(FINISHED, FINISHED[0]), ids=named)
def test_heads_of_few_tokens_are_finished(problem, capability):
    """Nothing is written before the kernel in front has ended. For many texts of heads of 128 elements a thread has a
    tile of 32 positions, some of which spills; it is among the fastest all the same (docs/log.md)."""
    code = finishing(problem, capability)
    assert code.spills <= (256 if problem.sequences > 1 and problem.head_dim == 128 else 0)
    assert "mma.sync" in code.ptx and "shfl.sync.idx" not in code.ptx
    assert not re.findall(r"ld\.global[.\w]*\.b16", code.ptx)
    if capability >= 90:
        assert "st.global" not in code.ptx[: code.ptx.index("griddepcontrol.wait")]


def test_many_tokens_or_many_heads_of_a_program_are_not_finished():
    def default(*problem):
        made = PagedAttention(*problem)
        return cuda.finishes(made, space.cuda(made, DEVICES[90]).default)

    assert default(1, 8, *QWEN3_06B, 1000) and default(64, 1, *QWEN3_8B, 1000) and default(1, 8, *QWEN3_8B, 1000)
    assert not default(1, 4, *GEMMA3, 1000), "registers do not hold heads of 256 elements"
    assert not default(1, 16, *QWEN3_06B, 1000) and not default(1, 8, 40, 2, 128, 1000)


def test_the_next_page_is_looked_up_a_tile_ahead():
    """In the loop the table's entry is only kept: what copies a tile has the entry that the loop before has loaded."""
    (code,) = compiled(PagedAttention(1, 2048, *QWEN3_8B, 2048), 90)
    blocks = re.split(r"\n\$L__BB0_\d+:", code.ptx)
    loop = next(block for block in blocks if "wgmma.mma_async" in block and "ex2.approx" in block)
    (entry,) = re.findall(r"ld\.global\.b64 \{ (%rd\d+) \}", loop)
    uses = [line for line in loop.splitlines() if re.search(entry + r"\b", line)]
    assert len(uses) == 3 and uses[0].strip().startswith("mov.u64") and uses[2].strip().startswith("mov.b64"), uses


ODD_HEADS = [  # each pair of two of the three; the slow tests have all
    pytest.param(shape, sequences, tokens, capability, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, shape in enumerate((GEMMA3, PHI3, WIDE))
    for j, (sequences, tokens) in enumerate(((1, 512), (8, 1)))
    for k, capability in enumerate((75, 80, 90))
]


@pytest.mark.parametrize(("shape", "sequences", "tokens", "capability"), ODD_HEADS)
def test_windows_soft_caps_and_odd_heads_compile_without_spills(shape, sequences, tokens, capability):
    problem = PagedAttention(sequences, tokens, *shape, 2560, window=512, softcap=50.0 if shape == GEMMA3 else 0.0)
    for code in compiled(problem, capability):
        assert code.spills == 0
        assert ("mma" in code.ptx) == (capability >= 80 and "attend" in code.name)


@pytest.mark.parametrize("changes", [
    {"rows": 64, "warps": 4, "stages": 2}, {"tile": 128, "warps": 8, "stages": 2}, {"stages": 1}, {"stages": 2},
    {"rows": 64, "warps": 4, "stages": 1},
    {"rows": 128, "warps": 8, "edges": "alike"}, {"rows": 32, "warps": 4}, {"rows": 16, "tile": 16, "warps": 1},
], ids=str)  # fmt: skip
def test_what_the_space_allows_fits_in_registers(changes):
    (code,) = compiled(PagedAttention(1, 2048, *QWEN3_8B, 2048), 90, **changes)
    assert code.spills == 0


SINKS = [  # each pair of two of the three; the slow tests have all
    pytest.param(sequences, tokens, window, capability, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, (sequences, tokens) in enumerate(((1, 2048), (1, 512), (8, 1), (1, 8), (1, 4)))
    for j, window in enumerate((0, 128))
    for k, capability in enumerate((75, 80, 90))
]


@pytest.mark.parametrize(("sequences", "tokens", "window", "capability"), SINKS)
def test_sinks_compile_without_spills(sequences, tokens, window, capability):
    """gpt-oss-20b's heads, whose eight queries share a key."""
    problem = PagedAttention(sequences, tokens, 64, 8, 64, 2560, window=window, sinks=1)
    assert all(code.spills == 0 for code in compiled(problem, capability))


def test_a_profiler_knows_its_kernels_and_what_they_read():
    """Of the cache, what the texts' rows see: not its padding."""
    problem = PagedAttention(8, 1, *QWEN3_8B, 2048)
    default = space.cuda(problem, DEVICES[90]).default
    by_kernel = Config({**default, "combine": "kernel"})
    (alone,) = kernel_table.without_a_gpu(problem, default, "default")
    attend, join = kernel_table.without_a_gpu(problem, by_kernel, "default")
    assert (alone.kernel, attend.kernel, join.kernel) == ("attend_few", "attend_few", "join_few")
    cached = 4 * 8 * 128 * sum(last + 1 for last in problem.last_positions)
    assert cached < attend.bytes_needed < 1.2 * cached


@pytest.mark.parametrize("shape", [
    QWEN3_8B, QWEN3_06B, SMOLLM2, GEMMA3, PHI3, (71, 1, 64), (512, 2, 16), (4, 4, 1024), (1, 1, 16),
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("sequences", "tokens"), [(1, 2048), (1, 64), (1, 8), (1, 1), (8, 1), (64, 1), (4, 4)])
@pytest.mark.parametrize("capability", DEVICES)
def test_space_has_a_valid_default_and_no_needless_splits(shape, sequences, tokens, capability):
    problem = PagedAttention(sequences, tokens, *shape, max(2048, tokens))
    found = space.cuda(problem, DEVICES[capability])
    assert found.broken(found.default) is None
    block, heads = space.block_tokens(problem, found.default), space.together(problem, found.default)
    assert 1 <= block * heads <= found.default["rows"]
    assert all(c["splits"] == 1 or c["splits"] // 2 * c["tile"] < 4096 for c in found.configs())


def test_keys_name_traits_only_where_they_differ():
    key = "paged_attention:sequences=8,tokens=1,heads=32,kv_heads=8,head_dim=128,context=2048"
    problem = registry.parse_problem(key)
    assert problem == PagedAttention(8, 1, *QWEN3_8B, 2048) and problem.key == key
    assert replace(problem, window=512).key == key + ",window=512"


def test_work_is_what_rows_see():
    """A text's keys once for all its rows; of a window, no more than it holds before the first of them."""
    work = registry.get("paged_attention").work
    one = work(PagedAttention(1, 1, 4, 2, 64, 1000))
    assert one.bytes == 4 * 2 * 64 * 1000 + 4 * 4 * 64 and one.ops == 4 * 4 * 64 * 1000
    few = work(PagedAttention(1, 8, 4, 2, 64, 1000))
    assert few.bytes - one.bytes == 7 * 4 * 4 * 64 and few.ops == 4 * 4 * 64 * sum(range(993, 1001))
    local = work(PagedAttention(1, 8, 4, 2, 64, 1000, window=100))
    assert local.bytes == 4 * 2 * 64 * 107 + 8 * 4 * 4 * 64 and local.ops == 4 * 4 * 64 * 8 * 100
    whole = work(PagedAttention(1, 1000, 4, 2, 64, 1000))
    assert whole.ops == 4 * 4 * 64 * sum(range(1, 1001)) and whole.bytes == 4 * 2 * 64 * 1000 + 1000 * 4 * 4 * 64


def test_texts_are_proved_at_places_of_their_own_and_at_edges():
    assert PagedAttention(4, 1, 4, 2, 64, 1000).last_positions == (999, 937, 874, 812)
    assert PagedAttention(4, 1, 4, 2, 64, 1000, window=100).proved_positions == (0, 63, 64, 99, 100)
    assert PagedAttention(1, 2048, 4, 2, 64, 2048).proved_positions == ()
    assert PagedAttention(1, 1, 4, 2, 64, 1).last_positions == (0,)
    assert PagedAttention(1, 8, 4, 2, 64, 4).last_positions == (7,), "rows stand where there is room for them"
