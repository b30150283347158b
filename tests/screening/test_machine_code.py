"""What is read of machine code, held against NVIDIA's own tools on kernels that are compiled here."""

import os
import re
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from autotune.screening import binary, cubin, machine_code
from kernel_templates import random_inputs, registry
from kernel_templates.device import Device

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from kernel_templates.cuda.crosscompile import Compiled, cross_compile  # noqa: E402
from kernel_templates.cuda.launch import Launch  # noqa: E402

NAMES = {  # of nvdisasm
    "load": r"LDG", "local": r"LDL|STL", "shared": r"LDSM?|STSM?", "store": r"STG", "shuffle": r"SHFL",
    "barrier": r"BAR",
    "dot": r"IDP", "float": r"FFMA|FMUL|FADD|FSEL|FMNMX|FSETP", "wait": r"ACQBULK", "release": r"PREEXIT",
}  # fmt: skip


def compiled(capability: int, **changes: int) -> tuple[Launch, Compiled]:
    problem = registry.parse_problem("matvec:rows=512,cols=2048,format=Q4_0,activation=int16")
    device = Device("cuda", "any", f"{capability // 10}.{capability % 10}", 132, 80 << 30)
    config = {**registry.cuda_space(problem, device).default, **changes}
    template = registry.cuda("matvec")
    with random_inputs.shapes_only():
        inputs = registry.get("matvec").inputs(problem, 0)
    packed = template.pack(problem, config, inputs.weights, "meta")
    (launch,) = template.launches(problem, config, packed, template.prepare(problem, inputs, "meta"))
    return launch, cross_compile(launch, capability)


def disassembled(code: bytes, capability: int, tmp_path: Path) -> list[str]:
    """Names of the operations, with what follows their dots."""
    path = tmp_path / "code"
    path.write_bytes(code)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    words = [str(tool), "-b", f"SM{capability}", str(path)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.a-z]+)", text)


@pytest.mark.parametrize("capability", [90, *(pytest.param(c, marks=pytest.mark.slow) for c in (75, 80, 100))])
def test_what_is_read_is_what_nvidias_tools_say(capability: int, tmp_path: Path) -> None:
    _, made = compiled(capability, each=8, steps=2, ahead=4, units=64)  # spills
    found = cubin.read(made.cubin)
    assert (found.registers, found.spills) == (made.registers, made.spills)
    code, names = machine_code.read(found.text), disassembled(found.text, capability, tmp_path)
    assert len(names) == len(found.text) // 16
    for family, pattern in NAMES.items():
        count = sum(re.match(pattern, name) is not None for name in names)
        assert code.mix.get(family, 0) == count, family
    widths = [16 if ".128" in n else 8 if ".64" in n else 2 if ".U16" in n else 1 if ".U8" in n else 4 for n in names]
    loaded = [w for w, n in zip(widths, names, strict=True) if n.startswith("LDG")]
    assert (code.widest, code.narrowest, code.loads) == (max(loaded), min(loaded), sum(loaded))
    assert not code.loops and 0 < code.after <= code.chain and code.chain > code.issue
    assert (code.after < code.chain) == (capability >= 90)


def test_the_digest_is_of_code_and_launch_not_of_names() -> None:
    base = binary.Binary("out", 128, 128, 0, (4096.0,), 64, 0, bytes(32))
    assert base.digest == binary.Binary("down", 128, 128, 0, (4096.0,), 64, 0, bytes(32)).digest
    others = [("out", 64, 128, 0, (4096.0,)), ("out", 128, 64, 0, (4096.0,)), ("out", 128, 128, 8, (4096.0,)),
              ("out", 128, 128, 0, (1.0,))]  # fmt: skip
    digests = {binary.Binary(*other, 64, 0, bytes(32)).digest for other in others}
    assert len(digests) == 4 and base.digest not in digests


def instruction(operation: int, stall: int = 1, writes: int = 7, waits: int = 0, size: int = 0) -> bytes:
    return struct.pack("<QQ", operation, size << 9 | (stall | 1 << 4 | writes << 5 | 7 << 8 | waits << 11) << 41)


def test_a_chain_waits_for_what_it_needs() -> None:
    load, add, wait, end = 0x981, 0x210, 0x82E, 0x94D
    code = machine_code.read(
        instruction(load, writes=0, size=6) + instruction(load, writes=1, size=2) + instruction(add, waits=1)
        + instruction(wait) + instruction(add, stall=5, waits=2) + instruction(end) + instruction(0x947)
        + 3 * instruction(0x918)
    )  # fmt: skip
    latency = machine_code.LATENCY["load"]
    assert code.instructions == code.issue == 6 and code.mix == dict(Counter(load=2, integer=2, wait=1, control=1))
    assert (code.widest, code.narrowest, code.loads) == (16, 2, 18)
    assert code.chain == latency + 2 + 5 + 1 and code.after == 1 + 5 + 1


@pytest.mark.parametrize("data", [b"", b"text", b"\x7fELF\x02" + bytes(50), b"\x7fELF\x02" + bytes(range(60, 180))])
def test_what_is_no_cubin_is_refused(data: bytes) -> None:
    with pytest.raises(cubin.BadCubin):
        cubin.read(data)
    with pytest.raises(ValueError):
        machine_code.read(data[:17])
