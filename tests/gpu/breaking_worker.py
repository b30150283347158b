"""A worker whose candidates break things on a GPU. {"break": True} writes far outside its memory. With $BREAKING set
configurations do what `kind_of` says before they are measured, all but the default."""

import ctypes
import os
import sys
import zlib
from multiprocessing.connection import Connection

import torch
import triton
import triton.language as tl

from autotune.runner.cuda_worker import CudaBackend
from autotune.runner.process_group import die_with_parent
from autotune.runner.protocol import Measure, Reply
from autotune.runner.worker import backend, serve
from kernel_templates.space import Config


@triton.jit
def wild(out, OFFSET: tl.constexpr):
    tl.store(out + tl.program_id(0).to(tl.int64) + OFFSET, 1.0)


@triton.jit
def spin(out, rounds):
    """About a minute and a half, then it ends: nothing is left on a machine whose driver cannot stop a kernel."""
    x = tl.load(out)
    for _ in range(rounds):
        x = x * 1.0001 + 1.0
        x = tl.where(x > 1e30, 1.0, x)
    tl.store(out, x)


KINDS = {"illegal address": "crashed", "spin": "timed_out", "out of memory": "crashed", "segfault": "crashed"}


def kind_of(config: Config) -> str | None:
    """Half of all configurations do one of KINDS."""
    dice = zlib.crc32(config.key.encode()) % (2 * len(KINDS))
    return list(KINDS)[dice] if dice < len(KINDS) else None


class Breaking(CudaBackend):
    def measure(self, request: Measure) -> Reply:
        kind = kind_of(request.config) if os.environ.get("BREAKING") not in (None, request.config.key) else None
        if "break" in request.config or kind == "illegal address":
            wild[(1,)](torch.zeros(1, device="cuda"), OFFSET=1 << 40)
        elif kind == "spin":
            spin[(1,)](torch.zeros(1, device="cuda"), 1 << 33)
        elif kind == "out of memory":
            torch.empty(1 << 42, dtype=torch.uint8, device="cuda")
        elif kind == "segfault":
            ctypes.string_at(8)
        torch.cuda.synchronize()
        return super().measure(request)


if __name__ == "__main__":
    die_with_parent()
    serve(Connection(int(sys.argv[1])), lambda target: Breaking(0) if target.startswith("cuda") else backend(target))
