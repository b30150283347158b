#!/usr/bin/env bash
# Triton 3.6.0: `if CONSTANT:` with a float constexpr runs in the interpreter and is refused by the compiler.
#
# A constexpr of 0 switches a part of a kernel off, and for integers, booleans and None `if CONSTANT:` says so. A float
# (a soft cap, a scale) works like that in Triton's interpreter, where tests without a GPU run, but the compiler takes
# conditions of NoneType, bool and int only and stops with an error. So a kernel whose tests all pass does not compile on
# the first GPU. A good engineer expects the interpreter to refuse what the compiler refuses. What to do: `CONSTANT > 0`,
# and compile every kernel for a chip that is not there (triton.compile with a GPUTarget) beside interpreting it.
#
# Needs Linux on x86-64, Python 3.11 or newer with pip, no GPU. Exits 1 when the behaviour is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/site" triton==3.6.0 torch==2.13.0 numpy==2.4.6
cat >"$folder/capped.py" <<'PYTHON'
import sys

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def by_truth(x, CAP: tl.constexpr):
    if CAP:
        tl.store(x, CAP)


@triton.jit
def by_comparison(x, CAP: tl.constexpr):
    if CAP > 0:
        tl.store(x, CAP)


for kernel in (by_truth, by_comparison):
    if sys.argv[1] == "interpreter":
        x = torch.zeros(1)
        kernel[(1,)](x, 50.0)
        print(f"interpreter, {kernel.__name__}: wrote {x.item():g}")
    else:
        source = ASTSource(kernel, {"x": "*fp32", "CAP": "constexpr"}, constexprs={(1,): 50.0})
        try:
            triton.compile(source, target=GPUTarget("cuda", 90, 32))
            print(f"compiler, {kernel.__name__}: compiled")
        except triton.compiler.errors.CompilationError as error:
            print(f"compiler, {kernel.__name__}: {type(error).__name__}")
PYTHON
run() { (cd "$folder" && TRITON_CACHE_DIR="$folder/cache" PYTHONPATH="$folder/site" python3 capped.py "$1" 2>&1); }
seen=$(TRITON_INTERPRET=1 run interpreter; run compiler)
expected="interpreter, by_truth: wrote 50
interpreter, by_comparison: wrote 50
compiler, by_truth: UnsupportedLanguageConstruct
compiler, by_comparison: compiled"
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this is not what was seen with Triton 3.6.0" >&2; exit 1; }
