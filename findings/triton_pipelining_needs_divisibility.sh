#!/usr/bin/env bash
# Triton 3.6.0: `num_stages=4` is dropped without a word when a row stride is not known to be a multiple of 16.
#
# A loop of two tl.load and one tl.dot over float16 tiles asks for four stages of asynchronous copies. With the
# divisibility of pointers and stride known, sm_80 and sm_90 get 32 cp.async instructions and 48 or 64 KB of shared
# memory. With pointers aligned and the stride unknown, which is what an odd-sized matrix or an ahead-of-time signature
# gives, they get none, 16 KB, and no warning: the loop runs unpipelined. A good engineer expects the stages asked for, or
# a message. What to do: pad rows to 16 elements, or state the hint (tl.multiple_of, "tt.divisibility").
#
# Needs Linux on x86-64, Python 3.10 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/site" triton==3.6.0
cat >"$folder/stages.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(a, b, out, size, stride):
    row, column = tl.arange(0, 64), tl.arange(0, 64)
    total = tl.zeros([64, 64], tl.float32)
    for k in tl.range(0, size, 64, num_stages=4):
        x = tl.load(a + row[:, None] * stride + (k + column)[None, :])
        y = tl.load(b + (k + row)[:, None] * stride + column[None, :])
        total = tl.dot(x, y, total)
    tl.store(out + row[:, None] * 64 + column[None, :], total)


signature = {"a": "*fp16", "b": "*fp16", "out": "*fp32", "size": "i32", "stride": "i32"}
for capability in (80, 90):
    for hinted in (("a", "b", "stride"), ("a", "b")):
        hints = {(list(signature).index(name),): [["tt.divisibility", 16]] for name in hinted}
        source = ASTSource(product, signature, constexprs={}, attrs=hints)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
        copies = made.asm["ptx"].count("cp.async.cg") + made.asm["ptx"].count("cp.async.ca")
        print(f"sm_{capability} known multiples of 16: {' '.join(hinted)}: {copies} copies, {made.metadata.shared} bytes")
PYTHON
seen=$(cd "$folder" && TRITON_CACHE_DIR="$folder/cache" PYTHONPATH="$folder/site" python3 stages.py 2>&1)
expected="sm_80 known multiples of 16: a b stride: 32 copies, 49152 bytes
sm_80 known multiples of 16: a b: 0 copies, 16384 bytes
sm_90 known multiples of 16: a b stride: 32 copies, 65536 bytes
sm_90 known multiples of 16: a b: 0 copies, 16384 bytes"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with Triton 3.6.0" >&2; exit 1; }
