#!/usr/bin/env bash
# Triton 3.6.0 and its ptxas 12.8.93 on Hopper: of two tl.dot in a row, the second reads from an address never computed.
#
# The kernel is A @ (B @ X) without a loop, A and B of 64 x 64, X of 64 x 16 or 64 x 32. Its PTX makes the addresses of
# the second product's right operand from one number, the place in shared memory where B lay. In the machine code all
# but the first of that product's four wgmma have UR14 for this number, which no instruction writes: whatever ran before
# decides where they read. UR14 stands for both halves of the 64 bits, of which the upper one is 0 and the lower is not,
# so no value would do. nvdisasm's own table of live registers has it alive in front of the first instruction. A larger
# kernel with such code gave wrong numbers or an illegal access on an H200; this one is only compiled and read.
# It is not so with X of 64 x 64. ptxas 12.8.93 does it at -O1 to -O3, not at -O0. Given the same PTX, 12.8.61 and
# 12.9.41 do it too; 12.9.86, 13.0.88 and 13.5.37 do not. Triton 3.7.1 does it; 3.5.1, with the same ptxas, writes
# another PTX and does not; 3.9.0 has 12.9.86. triton-lang/triton#11366 (3.7.1 fails, 3.5.1 does not) may be this. What
# to do: let TRITON_PTXAS_PATH name ptxas 12.9.86 or a newer one.
#
# Needs Linux on x86-64, Python 3.11 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/site" \
  triton==3.6.0 nvidia-cuda-nvcc-cu12==12.9.86
cat >"$folder/chain.py" <<'PYTHON'
import re
import subprocess
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SITE = Path(triton.__file__).parents[1]
TOOLS = SITE / "triton/backends/nvidia/bin"


@triton.jit
def chain(a, b, x, out, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    square = rows * M + tl.arange(0, M)[None, :]
    left, right = tl.load(a + square), tl.load(b + square)
    y = tl.dot(right, tl.load(x + rows * N + columns)).to(tl.float16)
    tl.store(out + rows * N + columns, tl.dot(left, y).to(tl.float16))


def alive_at_entry(listing):
    """Uniform registers with a value in front of the first instruction, in nvdisasm's table of live registers: a
    column of one character a register after a count."""
    table = [line.split("//", 1)[1].split("|") for line in listing.splitlines() if "// |" in line]
    place = next(i for i, cell in enumerate(table[0]) if cell.strip() == "UGPR")
    first = next(line for line in listing.splitlines() if "/*0000*/" in line)
    cells = first.split("//", 1)[1].split("|")[place]
    start = next(row[place] for row in table if "#" in row[0] + row[place]).index("#") + 2
    return [f"UR{i}" for i, mark in enumerate(cells[start:]) if mark in ":vx"]


names = {"a": "*fp16", "b": "*fp16", "x": "*fp16", "out": "*fp16", "M": "constexpr", "N": "constexpr"}
for columns in (16, 32, 64):
    source = ASTSource(chain, names, constexprs={(4,): 64, (5,): columns})
    ptx = Path(f"{columns}.ptx")
    ptx.write_text(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
    for ptxas in (TOOLS / "ptxas", SITE / "nvidia/cuda_nvcc/bin/ptxas"):
        version = re.search(r"V([\d.]+)", subprocess.check_output([ptxas, "--version"], text=True))[1]
        subprocess.run([ptxas, "--gpu-name=sm_90a", ptx, "-o", "chain.cubin"], check=True)
        command = [TOOLS / "nvdisasm", "--life-range-mode", "narrow", "--print-code", "chain.cubin"]
        listing = subprocess.check_output(command, text=True)
        alive = alive_at_entry(listing)
        instructions = re.findall(r"\*/\s+([^;]*?) ;", listing)
        products = sum("HGMMA" in text for text in instructions)
        print(f"X 64 x {columns}, ptxas {version}: {products} products; never written: {', '.join(alive) or 'none'}")
        users = [i for i, text in enumerate(instructions) if any(re.search(rf"\b{name}\b", text) for name in alive)]
        if users:  # all that name the register, and the first product after them
            product = next(text for text in instructions[users[-1] :] if "HGMMA" in text)
            print("".join(f"    {text}\n" for text in [*(instructions[i] for i in users), product]), end="")
PYTHON
seen=$(cd "$folder" && TRITON_CACHE_DIR="$folder/cache" PYTHONPATH="$folder/site" python3 chain.py 2>&1)
expected="X 64 x 16, ptxas 12.8.93: 8 products; never written: UR14
    UIADD3 UR6, UP0, UR14, 0x20, URZ
    UIADD3.X UR7, UR14, -0x3ffffff0, URZ, UP0, !UPT
    HGMMA.64x16x16.F32 R24, gdesc[UR4].tnspB, R24
X 64 x 16, ptxas 12.9.86: 8 products; never written: none
X 64 x 32, ptxas 12.8.93: 8 products; never written: UR14
    UIADD3 UR6, UP0, UR14, 0x40, URZ
    UIADD3.X UR7, UR14, -0x7fffffe0, URZ, UP0, !UPT
    HGMMA.64x32x16.F32 R24, gdesc[UR4].tnspB, R24
X 64 x 32, ptxas 12.9.86: 8 products; never written: none
X 64 x 64, ptxas 12.8.93: 8 products; never written: none
X 64 x 64, ptxas 12.9.86: 8 products; never written: none"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with Triton 3.6.0" >&2; exit 1; }
