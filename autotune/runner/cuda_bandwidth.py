"""How fast a GPU can read and copy its memory: the roof under which every kernel is judged."""

import torch
import triton.language as tl

from autotune.runner import gpu_timer
from kernel_templates.cuda import machine
from kernel_templates.cuda.launch import Launch, capability_target
from kernel_templates.cuda.lazy_triton import triton

BLOCK = 4096  # elements of 4 bytes a step
STEPS = (1, 2, 4, 8)  # of a program; which reads fastest differs from GPU to GPU
REPEATS = 4  # of a sample: a read of 256 MB takes some 90 us, and is over before Python has launched the next


@triton.jit
def read(data, out, BLOCK: tl.constexpr, STEPS: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr):
    """out[p] = the sum of program p's part of data, int32 [programs * STEPS * BLOCK]."""
    at = tl.program_id(0).to(tl.int64) * (BLOCK * STEPS) + tl.arange(0, BLOCK)
    total = tl.load(data + at)
    for step in tl.static_range(1, STEPS):
        total += tl.load(data + at + step * BLOCK)
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


class ReadProbe:
    """Memory read on demand, to compare a kernel with the GPU as it is at that moment."""

    def __init__(self, index: int = 0, steps: int = 4, nbytes: int | None = None):
        part = 4 * BLOCK * max(STEPS)
        size = min(max(4 * machine.l2_bytes(index), 1 << 28), torch.cuda.mem_get_info(index)[0] // 4)
        self.nbytes = max(1, (nbytes or size) // part) * part
        self._data = torch.ones(self.nbytes // 4, dtype=torch.int32, device=f"cuda:{index}")
        grid = (self.nbytes // (4 * BLOCK * steps),)
        out = torch.empty(grid, dtype=torch.int32, device=f"cuda:{index}")
        constants = {"BLOCK": BLOCK, "STEPS": steps}
        self._launch = Launch("read", read, grid, (self._data, out), constants, warps=8, after_all=True)
        major, minor = torch.cuda.get_device_capability(index)
        self._target = capability_target(10 * major + minor)
        with torch.cuda.device(index):
            self._graph = gpu_timer.capture(self._read)

    def seconds(self) -> float:
        """GPU time of reading everything once, the mean of a few times in one graph."""
        return gpu_timer.mean_ns(self._graph.replay, 1) / REPEATS * 1e-9

    def _read(self) -> None:
        for _ in range(REPEATS):
            self._launch.run(self._target)


def ceilings(index: int = 0, repeats: int = 20) -> dict[str, float]:
    """Measured roofs: read_gb_s and copy_gb_s (both directions counted), over memory of at least four L2 caches.

    The best tenth of `repeats`, as on the cpu. Raises what torch raises, torch.OutOfMemoryError included."""
    with torch.cuda.device(index):
        rates = []
        nbytes = min(1 << 30, torch.cuda.mem_get_info(index)[0] // 8)
        nbytes = max(nbytes, 4 * machine.l2_bytes(index))
        for steps in STEPS:
            probe = ReadProbe(index, steps, nbytes)
            rates.append(probe.nbytes / _best([probe.seconds() for _ in range(repeats)]))
            del probe
        half = torch.ones(nbytes // 8, dtype=torch.int32, device=f"cuda:{index}")
        other = torch.empty_like(half)
        other.copy_(half)
        copy = _best([gpu_timer.mean_ns(lambda: other.copy_(half), REPEATS) * 1e-9 for _ in range(repeats)])
        return {"read_gb_s": max(rates) / 1e9, "copy_gb_s": 2 * half.numel() * 4 / copy / 1e9}


def _best(times: list[float]) -> float:
    return sorted(times)[len(times) // 10]
