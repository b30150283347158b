"""Gated delta nets compiled for chips that are not here: what the machine code takes, and what it is made of."""

import os
import re
from dataclasses import replace

import pytest
import torch
from compiled_once import cross_compile

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.runtime.errors import PTXASError

from kernel_templates.cuda.crosscompile import Compiled
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.rows import output_gate
from kernel_templates.cuda.vector import Vector
from kernel_templates.device import Device
from kernel_templates.gated_delta import cuda
from kernel_templates.gated_delta import space as spaces
from kernel_templates.gated_delta.problem import GatedDelta
from kernel_templates.space import Config

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 141 << 30)
QWEN = GatedDelta(heads=32, key_heads=16, head_dim=128, kernel=4)
"""Of Qwen3.5-9B."""
TINY = GatedDelta(heads=4, key_heads=2, head_dim=32, kernel=4)


def launches(problem: GatedDelta, device: Device = H200, **wanted: int | str) -> list[Launch]:
    space = spaces.cuda(problem, device)
    config = Config({**space.default, **wanted})
    assert space.broken(config) is None
    return launches_of(problem, config)


def launches_of(problem: GatedDelta, config: Config) -> list[Launch]:
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    p, whole = problem, torch.int32
    buffers = {
        "projected": empty(p.rows, p.projected_size), "conv": empty(p.kernel, p.channels), "decay": empty(p.heads),
        "dt_bias": empty(p.heads), "norm": empty(p.head_dim), "eps": 1e-6,
        "conv_state": empty(p.sequences, p.kernel, p.channels),
        "state": empty(p.sequences, p.heads, p.head_dim, p.head_dim),
    }  # fmt: skip
    if p.rows == 1:
        buffers |= {"out": Vector.allocate(p.value_size, "meta"), "position": empty(1, dtype=whole)}
    else:
        places = {name: empty(p.rows, dtype=whole) for name in ("positions", "sequences")}
        buffers |= {**places, "out": empty(p.rows, p.value_size, dtype=torch.float16)}
    return cuda.launches(p, config, (), buffers)


def compiled(launch: Launch, capability: int = 90) -> Compiled:
    code = cross_compile(launch, capability)
    print(f"{launch.name} {launch.grid}: {code.registers} registers, {code.spills} spilled, {code.shared} bytes shared")
    return code


def wide(code: Compiled, kind: str) -> int:
    """Accesses of 16 bytes a thread to global memory, "ld" or "st"."""
    return len(re.findall(rf"{kind}\.global(?:\.\w+)*?\.v4\.[bf]32", code.ptx))


@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("capability", [80, 90])
def test_a_token_moves_its_state_in_wide_pieces(columns: int, capability: int) -> None:
    """Programs enough for every multiprocessor, several on each, and the state asked for before the wait."""
    (launch,) = launches(QWEN, columns=columns)
    assert launch.grid[0] * launch.grid[1] >= 128
    code = compiled(launch, capability)
    held = 128 * columns // (32 * launch.warps)
    assert code.spills == 0 and code.registers <= 128
    assert wide(code, "ld") >= held // 4 and wide(code, "st") >= held // 4
    if capability >= 90:
        before, _ = code.ptx.split("griddepcontrol.wait", 1)
        assert before.count("ld.global.v4") >= held // 4


def test_few_rows_keep_the_state_in_registers() -> None:
    step, norm = launches(replace(QWEN, sequences=8))
    assert compiled(step).spills == compiled(norm).spills == 0


@pytest.mark.parametrize("chunk", [32, 64])
def test_chunks_multiply_on_tensor_cores(chunk: int) -> None:
    conv, meet, scan, norm = launches(replace(QWEN, tokens=2048), chunk=chunk)
    codes = [compiled(launch) for launch in (conv, meet, scan, norm)]
    assert all(code.spills == 0 for code in codes)
    assert all(re.search(r"wgmma|mma\.sync", code.ptx) for code in codes[1:3])
    problem, config = replace(QWEN, tokens=2048), {"chunk": chunk, "columns": scan.constants["COLUMNS"], "stages": 2}
    assert codes[2].shared <= spaces.shared_bytes(problem, config)


@pytest.mark.parametrize(("problem", "chunk"), [(TINY, 64), (QWEN, 64), (TINY, 128)])
def test_a_single_chunk(problem: GatedDelta, chunk: int) -> None:
    """Compiling raises PTXASError where operands of wgmma would be read from anywhere (`cuda.sass`)."""
    scan = launches(replace(problem, tokens=chunk), chunk=chunk, meet_warps=8)[2]
    assert "wgmma" in compiled(scan).ptx


@pytest.mark.parametrize("columns", [16, 32])
def test_what_ptxas_misplaces_is_left_out(columns: int) -> None:
    """Where this compiles, ptxas is a right one, and the constraint may go."""
    problem = replace(QWEN, tokens=1000)
    space = spaces.cuda(problem, H200)
    config = Config({**space.default, "columns": columns, "warps": 8, "stages": 1})
    assert "ptxas" in str(space.broken(config))
    with pytest.raises(PTXASError, match="never writes"):
        compiled(launches_of(problem, config)[2])


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "99.0"])
def test_defaults_fit_smaller_shared_memories(capability: str) -> None:
    problem, device = replace(QWEN, tokens=512), replace(H200, capability=capability)
    config = spaces.cuda(problem, device).default
    limit = 1024 * spaces.SHARED_KIB.get(capability, spaces.ANY_KIB)
    assert config["algorithm"] == "chunked" and spaces.shared_bytes(problem, config) <= limit


def test_an_output_gate() -> None:
    qkv, out = torch.empty(8, 10240, device="meta"), torch.empty(8, 4096, dtype=torch.float16, device="meta")
    assert compiled(output_gate.launch(qkv, out, 16, 256, 0)).spills == 0
