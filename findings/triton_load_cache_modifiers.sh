#!/usr/bin/env bash
# Triton 3.6.0: cache_modifier=".cv" of tl.load is silently a plain load; ".ca" and ".cg" with an eviction policy die
# in ptxas.
#
# `.cv` (do not cache, fetch again) is among the modifiers that tl.load documents; a kernel that polls memory which another
# program writes would use it. It compiles, and the PTX is `ld.global` without it, for every eviction policy. `.ca`
# and `.cg` are honoured alone; together with `evict_first` or `evict_last`, which the front end accepts, the PTX that
# Triton writes is refused by its own ptxas ("Internal Triton PTX codegen error") instead of the arguments by name.
# What to do: volatile=True for a load that must not be cached; a cache modifier or an eviction policy, not both.
#
# Needs Linux on x86-64, Python 3.10 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/site" triton==3.6.0
cat >"$folder/modifiers.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def copy(a, out, CACHE: tl.constexpr, EVICT: tl.constexpr):
    i = tl.arange(0, 128)
    tl.store(out + i, tl.load(a + i, cache_modifier=CACHE, eviction_policy=EVICT))


for cache in ("", ".ca", ".cg", ".cv"):
    for evict in ("", "evict_first"):
        signature = {"a": "*fp32", "out": "*fp32", "CACHE": "constexpr", "EVICT": "constexpr"}
        source = ASTSource(copy, signature, constexprs={"CACHE": cache, "EVICT": evict})
        try:
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
            load = next(line.split()[0] for line in made.asm["ptx"].splitlines() if "ld." in line and "global" in line)
        except Exception as error:
            load = type(error).__name__
        print(f"cache {cache or 'none'}, eviction {evict or 'none'}: {load}")
PYTHON
seen=$(cd "$folder" && TRITON_CACHE_DIR="$folder/cache" PYTHONPATH="$folder/site" python3 modifiers.py 2>/dev/null | grep '^cache')
expected="cache none, eviction none: ld.global.b32
cache none, eviction evict_first: ld.global.L1::evict_first.L2::cache_hint.b32
cache .ca, eviction none: ld.global.ca.b32
cache .ca, eviction evict_first: PTXASError
cache .cg, eviction none: ld.global.cg.b32
cache .cg, eviction evict_first: PTXASError
cache .cv, eviction none: ld.global.b32
cache .cv, eviction evict_first: ld.global.L1::evict_first.L2::cache_hint.b32"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with Triton 3.6.0" >&2; exit 1; }
