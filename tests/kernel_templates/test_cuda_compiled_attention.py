"""Decoding attention's GPU kernels compiled for chips that are not here: what the machine code does."""

import os
import re

import pytest
import torch
from compiled_once import cross_compile

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from kernel_templates.attention import cuda, space
from kernel_templates.attention.problem import Attention
from kernel_templates.cuda.vector import Vector
from kernel_templates.device import Device
from kernel_templates.norm_qkv_rope import qk_norm_rope_append
from kernel_templates.norm_qkv_rope.problem import NormQkvRope

H100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30)
T4 = Device("cuda", "Tesla T4", "7.5", 40, 16 << 30)
LOOP = {"algorithm": space.THREADS, "tile": 32, "warps": 4, "splits": 64, "stages": 1}
"""Threads that go through a share tile by tile."""
SHAPES = {"smollm2": (9, 3, 64, False), "qwen3-0.6b": (16, 8, 128, True), "qwen3-8b": (32, 8, 128, True)}


def buffers_of(problem, capacity):
    size = problem.heads * problem.head_dim
    cache = (problem.kv_heads, capacity, problem.head_dim)
    dtype = torch.float16 if problem.cache == "f16" else torch.int8
    scales = {} if dtype == torch.float16 else {n: torch.zeros(cache[:2]) for n in ("key_scales", "value_scales")}
    return scales | {
        "q": torch.zeros(size + 2 * problem.kv_heads * problem.head_dim),
        "keys": torch.zeros(cache, dtype=dtype),
        "values": torch.zeros(cache, dtype=dtype),
        "position": torch.zeros(1, dtype=torch.int32),
        "out": Vector.allocate(-(-size // 32) * 32, "cpu"),
        "sinks": torch.zeros(problem.heads),
    }


def compiled(shape, context, capability, finish=True, traits=None, device=H100, **changes):
    """Machine code of every kernel, in the default configuration or with changes to it."""
    heads, kv_heads, head_dim, qk_norm = shape
    problem = Attention(heads, kv_heads, head_dim, context, **traits or {})
    config = {**space.cuda(problem, device).default, **changes}
    assert space.cuda(problem, device).broken(config) is None
    norm, rope = torch.zeros(head_dim), torch.zeros(context, head_dim)
    how = cuda.Finish(qk_norm, head_dim, norm, norm, rope, 1e-6) if finish else None
    made = cuda.launches(problem, config, (), buffers_of(problem, context), how)
    return [cross_compile(launch, capability) for launch in made]


def loads_of(ptx):
    return re.findall(r"ld\.global(?:\.\w+)*?\.(v\d\.b32|b32|b16|v\d\.b16)", ptx)


@pytest.mark.parametrize(
    ("name", "capability"), [("smollm2", 75), ("qwen3-0.6b", 90), ("qwen3-8b", 80), ("qwen3-8b", 100)]
)
def test_long_contexts_load_16_bytes_and_spill_nothing(name, capability):
    code, *join = compiled(SHAPES[name], 4096, capability)
    assert code.spills == 0 and all(kernel.spills == 0 for kernel in join)
    loads = loads_of(code.ptx)
    assert not [kind for kind in loads if "b16" in kind], "float16 loaded piece by piece"
    assert loads.count("v4.b32") > 16


def test_long_contexts_ask_for_the_cache_before_the_wait():
    """One wait; before it the first keys and values, after it the projections; no shared memory but at the end."""
    (code,) = compiled(SHAPES["qwen3-8b"], 4096, 90, **LOOP, combine="last")
    assert code.ptx.count("griddepcontrol.wait") == 1
    assert code.ptx.count("griddepcontrol.launch_dependents") == 1
    before, after = code.ptx.split("griddepcontrol.wait")
    assert before.index("griddepcontrol.launch_dependents") < before.index("ld.global")
    rows = 4
    assert before.count(".v4.b32") >= 2 * rows
    assert "st.global" not in before and "bar.sync" not in before and "st.shared" not in before
    loop_and_prologue = after[: after.index("st.shared")]
    assert loop_and_prologue.count("v4.b32") >= 2 * rows  # the loop's own loads
    assert "bar.sync" not in loop_and_prologue


@pytest.mark.parametrize(
    ("name", "context", "changes", "instructions"),
    [
        ("qwen3-0.6b", 128, {}, 650), ("smollm2", 256, {}, 600), ("qwen3-0.6b", 256, {}, 900),
        ("qwen3-0.6b", 128, {"heads": 2}, 1150),
    ],
)  # fmt: skip
def test_short_contexts_have_a_short_way_from_the_wait(name, context, changes, instructions):
    """All of the cache is loaded and made float32 before the wait; one exchange between warps comes after it."""
    (code,) = compiled(SHAPES[name], context, 90, **changes)
    assert code.spills == 0
    before, after = code.ptx.split("griddepcontrol.wait")
    assert "st.global" not in before and "bar.sync" not in before and "st.shared" not in before
    kinds = [kind for kind in loads_of(after) if "b16" in kind]
    assert not kinds, "the cache is read after the wait"
    machine = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", code.sass)
    wait = next(i for i, text in enumerate(machine) if "ACQBULK" in text)
    problem = Attention(*SHAPES[name][:3], context)
    held = space.held(problem, space.cuda(problem, H100).default)
    assert sum("HADD2.F32" in text for text in machine[:wait]) == 2 * held, "converted where used"
    assert sum("HADD2.F32" in text for text in machine[wait:]) <= 8
    end = max(i for i, text in enumerate(machine) if "EXIT" in text)
    assert end - wait < instructions
    joins = 2 if "atom" in code.ptx else 0
    assert sum("BAR.SYNC" in text for text in machine) <= 3 + joins


def test_a_share_is_asked_for_before_the_wait():
    code, _ = compiled(SHAPES["qwen3-0.6b"], 4096, 90, prefetch=1)
    assert code.ptx.split("griddepcontrol.wait")[0].count("cp.async.bulk.prefetch.L2") == 2
    assert code.spills == 0
    plain, _ = compiled(SHAPES["qwen3-0.6b"], 4096, 90)
    assert "cp.async.bulk" not in plain.ptx


TENSOR = {"algorithm": space.TENSOR_CORES, "combine": "kernel"}


def loop_of(code):
    """Instructions of the longest stretch that a backward branch repeats."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code.sass)
    index = {int(address, 16): i for i, (address, _) in enumerate(lines)}
    found: list[str] = []
    for i, (_, text) in enumerate(lines):
        to = re.search(r"BRA.* 0x([0-9a-f]+)", text)
        first = index.get(int(to.group(1), 16), i) if to else i
        if i + 1 - first > len(found):
            found = [text for _, text in lines[first : i + 1]]
    return found


def test_tensor_cores_multiply_all_heads_of_a_key_at_once():
    """A fifth of the instructions a position that eight heads of a key cost threads; loads of 16 bytes."""
    chosen = TENSOR | {"heads": 8, "tile": 64, "warps": 4, "splits": 32, "stages": 4}
    code, _ = compiled((32, 4, 128, True), 5120, 90, **chosen)
    threads, _ = compiled((32, 4, 128, True), 5120, 90, **LOOP)
    loop, theirs = loop_of(code), loop_of(threads)
    assert code.spills == 0
    assert sum("HMMA" in text for text in loop) == 2 * 64 // 4, "two products a position, shared by four warps"
    assert 5 * len(loop) / 64 < 1.4 * len(theirs) / 32
    copies = [text for text in loop if "LDGSTS" in text]
    assert len(copies) == 2 * 64 * 256 // (128 * 16) and all(".128" in text for text in copies)
    assert not any("LDG.E" in text for text in loop)


def test_a_share_of_one_tile_lies_in_shared_memory_before_the_wait():
    chosen = TENSOR | {"heads": 8, "tile": 128, "warps": 4, "splits": 64, "stages": 1}
    code, _ = compiled((32, 4, 128, True), 5120, 90, **chosen)
    assert code.spills == 0
    before, after = code.ptx.split("griddepcontrol.wait")
    mine = 2 * 128 * 256 // (128 * 16)
    assert len([kind for kind in loads_of(before) if kind == "v4.b32"]) >= mine
    assert before.count("st.shared.v4.b32") == mine
    assert "mma" not in before and "mma" in after


@pytest.mark.parametrize("name", ["gemma3-4b", "gemma2-9b", "mistral-7b", "heads of 80", "gpt-oss, all positions"])
def test_traits_on_tensor_cores_compile_without_spills(name):
    (heads, kv_heads, head_dim, qk_norm), traits, context = LOCAL[name]
    tile = 64 if head_dim == 64 else 32
    splits = 128 // kv_heads
    chosen = TENSOR | {"heads": heads // kv_heads, "tile": tile, "warps": 4, "splits": splits, "stages": 3}
    made = compiled((heads, kv_heads, head_dim, qk_norm), context, 90, traits=traits, **chosen)
    assert all(code.spills == 0 for code in made)


@pytest.mark.parametrize(("context", "capability"), [(4096, 75), (4096, 90), (256, 80)])
def test_without_prologue_and_with_a_second_kernel(context, capability):
    chosen = LOOP | {"splits": 2, "combine": "kernel"} if context > 512 else {"splits": 2, "combine": "kernel"}
    attend, combine = compiled(SHAPES["qwen3-8b"], context, capability, finish=False, **chosen)
    assert attend.spills == combine.spills == 0
    assert ("griddepcontrol.wait" in combine.ptx) == (capability >= 90)
    assert "atom" not in attend.ptx


@pytest.mark.parametrize("context", [256, 4096])
def test_arrivals_are_counted_after_a_barrier(context):
    """Triton 3.6 puts none before a scalar release atomic; without one, other threads' stores may come late."""
    (code,) = compiled(SHAPES["qwen3-8b"], context, 90, **LOOP if context > 512 else {}, combine="last")
    counted = code.ptx.index("atom.global.gpu.acq_rel")
    assert code.ptx.rindex("bar.sync", 0, counted) > code.ptx.rindex("st.global", 0, counted)


@pytest.mark.parametrize(
    ("shape", "context"), [((8, 2, 80, True), 200), ((4, 4, 96, False), 1024), ((4, 2, 256, True), 64)]
)
def test_odd_shapes_compile_without_spills(shape, context):
    assert all(code.spills == 0 for code in compiled(shape, context, 90))


LOCAL = {
    "gemma3-270m": ((4, 1, 256, True), {"window": 512}, 2560),
    "gemma3-4b": ((8, 4, 256, True), {"window": 1024}, 10240),
    "gemma2-9b": ((16, 8, 256, False), {"window": 4096, "softcap": 50.0}, 10240),
    "phi3-mini": ((32, 32, 96, False), {"window": 2047}, 5120),
    "mistral-7b": ((32, 8, 128, False), {"window": 4096, "scale": 0.1}, 640),
    "heads of 80": ((32, 8, 80, False), {"softcap": 30.0}, 2560),
    "gpt-oss": ((64, 8, 64, False), {"window": 128, "sinks": 1}, 640),
    "gpt-oss, all positions": ((64, 8, 64, False), {"sinks": 1}, 5120),
}


ON_T4 = ("gemma3-4b", "gemma2-9b", "heads of 80", "gpt-oss")  # wide heads with a window, a cap too; odd heads; sinks


@pytest.mark.parametrize(
    ("name", "capability", "device"),
    [
        *((name, 90, H100) for name in LOCAL),
        *(pytest.param(name, 75, T4, marks=[] if name in ON_T4 else [pytest.mark.slow]) for name in LOCAL),
    ],
)
def test_windows_soft_caps_and_sinks_compile_without_spills(name, capability, device):
    shape, traits, context = LOCAL[name]
    assert all(code.spills == 0 for code in compiled(shape, context, capability, traits=traits, device=device))


@pytest.mark.parametrize(
    ("context", "changes"),
    [
        (160, {}),
        (5120, LOOP | {"splits": 4, "combine": "last"}),
        (5120, LOOP | {"splits": 1, "combine": "last"}),
        (5120, LOOP),
        (5120, {}),
    ],
)
def test_a_sink_is_read_before_the_wait(context, changes):
    """By the kernel that has the last word on a head. Of two queries a key: gpt-oss's eight, which are compiled above,
    take three times as long."""

    def early_loads(traits):
        made = compiled((16, 8, 64, False), context, 90, traits=traits, **changes)
        assert all(code.spills == 0 for code in made)
        return [code.ptx.split("griddepcontrol.wait")[0].count("ld.global") for code in made]

    without, with_sinks = early_loads({}), early_loads({"sinks": 1})
    assert with_sinks[-1] > without[-1] and with_sinks[:-1] == without[:-1]


def test_splits_of_wide_heads_are_joined_without_spills():
    attend, combine = compiled((8, 4, 256, True), 10240, 90, splits=128, combine="kernel")
    assert attend.spills == combine.spills == 0


@pytest.mark.parametrize("name", [name for name, (_, traits, _) in LOCAL.items() if "window" in traits])
@pytest.mark.parametrize("context", [8192, 131072])
def test_a_window_is_read_as_a_context_of_its_length(name, context):
    """The same programs, wherever in the context: none for what the window leaves out."""
    (heads, kv_heads, head_dim, _), traits, _ = LOCAL[name]
    window = traits["window"]
    far, near = (space.cuda(Attention(heads, kv_heads, head_dim, c, **traits), H100) for c in (context, window))
    alone = space.cuda(Attention(heads, kv_heads, head_dim, window), H100)
    assert far.parameters == near.parameters
    assert [p.values for p in far.parameters] == [p.values for p in alone.parameters]


@pytest.mark.parametrize("capability", [75, 90])
def test_finish_kernel(capability):
    problem = NormQkvRope(1024, 16, 8, 128, 128, 1, "Q4_0", "Q4_0", "Q4_0")
    norm, rope = torch.zeros(128), torch.zeros(512, 128)
    extra = {"q_norm": norm, "k_norm": norm, "rope": rope, "eps": 1e-6}
    buffers = buffers_of(Attention(16, 8, 128, 512), 512) | extra
    buffers["qkv"] = buffers["q"]
    code = cross_compile(qk_norm_rope_append.finish_launch(problem, buffers), capability)
    assert code.spills == 0
    assert "st.shared" not in code.ptx


@pytest.mark.parametrize("shape", [*SHAPES.values(), (32, 4, 128, True), (64, 4, 128, True), (8, 8, 16, False)])
@pytest.mark.parametrize("context", [1, 64, 200, 256, 4096, 131072])
@pytest.mark.parametrize("units", [14, 132])
def test_space_has_a_valid_default_and_no_needless_splits(shape, context, units):
    problem = Attention(*shape[:3], context)
    found = space.cuda(problem, Device("cuda", "a chip", "8.0", units, 8 << 30))
    configs = found.configs()
    assert found.default in configs and len(configs) <= 500
    assert all(c["splits"] == 1 or c["splits"] // 2 * c["tile"] < context for c in configs)


def test_twice_the_programs_of_half_the_positions_where_all_are_resident():
    def untuned(heads: int, kv_heads: int, context: int) -> tuple[int, int]:
        default = space.cuda(Attention(heads, kv_heads, 128, context), H100).default
        return default["tile"], default["splits"]

    assert untuned(16, 8, 640) == (32, 32)
    assert untuned(32, 8, 640) == (64, 16), "twice as many would have to wait"
    assert untuned(8, 8, 1280) == (64, 32), "64 splits are too many to join"


def test_tensor_cores_where_threads_would_multiply_longer_than_memory_takes():
    """All programs are resident: shares of one tile; of many more positions, a program a multiprocessor loops."""

    def untuned(heads: int, kv_heads: int, head_dim: int, context: int, device=H100) -> tuple | str:
        default = space.cuda(Attention(heads, kv_heads, head_dim, context), device).default
        shape = tuple(default[name] for name in ("tile", "warps", "splits", "stages"))
        return shape if default["algorithm"] == space.TENSOR_CORES else space.THREADS

    assert untuned(32, 4, 128, 5120) == (128, 8, 64, 1)
    assert untuned(32, 4, 128, 40960) == (64, 4, 32, 4)
    assert untuned(64, 8, 64, 10240) == (256, 8, 64, 1)
    assert untuned(32, 4, 128, 640) == untuned(16, 8, 128, 5120) == space.THREADS, "measured: no faster"
    assert untuned(32, 8, 128, 10240) == untuned(16, 4, 256, 40960) == space.THREADS, "faster alone, not in a layer"
    assert untuned(32, 4, 128, 5120, T4) == space.THREADS
    small = Device("cuda", "a chip with 99 KB of shared memory", "12.0", 170, 32 << 30)
    assert untuned(32, 4, 128, 40960, small) == space.THREADS


@pytest.mark.parametrize(("heads", "kv_heads", "dim", "spilled"), [(32, 8, 128, 0), (16, 4, 256, 64)])
def test_eight_bits_go_from_memory_to_tensor_cores(heads, kv_heads, dim, spilled):
    """In words of 16 bytes; beside outputs, nothing goes by way of shared memory or from lane to lane."""
    problem = Attention(heads, kv_heads, dim, 40960, cache="q8_0")
    config = space.cuda(problem, H100).default
    assert config["algorithm"] == space.REGISTERS
    attend, _join = cuda.launches(problem, config, (), buffers_of(problem, 40960))
    made = cross_compile(attend, 90)
    loop = max(loops(made.sass), key=len)
    count = {
        name: sum(name in line for line in loop)
        for name in ("HMMA", "LDG.E.128", "BAR.SYNC", "LDS.", "STS.", "SHFL", "I2F")
    }
    print(made.registers, made.spills, len(loop), count)
    each = config["tile"] // config["warps"]
    assert count["LDG.E.128"] == 2 * each * dim // 512 and count["HMMA"] == each // 8 * dim // 8
    assert count["BAR.SYNC"] == count["LDS."] == count["STS."] == count["I2F"] == 0
    assert count["SHFL"] <= 6, "the largest score and the sum of a line's weights"
    assert made.spills <= spilled


def loops(sass):
    """The instructions of each loop."""
    lines = [line for line in sass.splitlines() if re.match(r"\s+/\*[0-9a-f]{4,5}\*/", line)]
    at = {int(re.search(r"/\*([0-9a-f]+)\*/", line)[1], 16): i for i, line in enumerate(lines)}
    found = []
    for i, line in enumerate(lines):
        target = re.search(r"BRA.*?0x([0-9a-f]+)", line)
        if target and at.get(int(target[1], 16), i) < i:
            found.append(lines[at[int(target[1], 16)] : i + 1])
    return found
