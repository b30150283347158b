"""A worker whose GPU a configuration can break: {"break": True} writes far outside its memory."""

import sys
from multiprocessing.connection import Connection

import torch
import triton
import triton.language as tl

from autotune.measure.on_cuda import OnCuda
from autotune.measure.worker import serve


@triton.jit
def wild(out, OFFSET: tl.constexpr):
    tl.store(out + tl.program_id(0).to(tl.int64) + OFFSET, 1.0)


class Breaking(OnCuda):
    def measure(self, config: dict, samples: int) -> tuple:
        if config.pop("break", False):
            wild[(1,)](torch.zeros(1, device="cuda"), OFFSET=1 << 40)
            torch.cuda.synchronize()
        return super().measure(config, samples)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), lambda device: Breaking(0))
