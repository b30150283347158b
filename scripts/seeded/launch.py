"""Launch the ten seeded slow kernels once each, for the profiler: `python launch.py NEEDED.json`.

Writes what a call has to read and write at least, in bytes, by kernel: a count that a caller knows without a profiler.
For two kernels that are one call the count is the call's. `compiled` builds them for a chip that is not here.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kernels

MEGA = 1 << 20
SOURCE = Path(__file__).with_name("kernels.cu")
SHARED = 200 * 1024  # bytes that k09's blocks ask for


@dataclass(frozen=True)
class Seed:
    """A Triton kernel and how it is launched; needed: bytes its call has to read and write."""

    kernel: Any
    grid: int
    arguments: tuple
    block: int
    warps: int
    needed: int
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[(self.grid,)](*self.arguments, BLOCK=self.block, num_warps=self.warps, **self.options)


def triton_seeds(device: str) -> list[Seed]:
    """On the "meta" device: shapes only."""

    def floats(size: int) -> torch.Tensor:
        return torch.rand(size, device=device) if device != "meta" else torch.empty(size, device=device)

    big, out, between = floats(32 * MEGA), floats(32 * MEGA), floats(32 * MEGA)
    some, few = floats(4 * MEGA), floats(64 * 1024)
    whole = torch.arange(MEGA, dtype=torch.int32, device=device)
    counts = torch.zeros(8, dtype=torch.int32, device=device)
    no: dict[str, Any] = {}
    return [
        Seed(kernels.k01, MEGA // 1024, (big, out, MEGA), 1024, 4, 8 * MEGA, no),
        Seed(kernels.k03, 512, (some, out, 64), 8192, 4, 32 * MEGA, {"maxnreg": 64}),
        Seed(kernels.k04, 4096, (some, out, 1024), 1024, 4, 32 * MEGA, no),
        Seed(kernels.k05, 2, (some, few, 512), 512, 4, 4 * MEGA // 2 + 8, no),
        Seed(kernels.k07, 8 * 8192, (big, few, 8192), 4096, 4, 128 * MEGA + 8 * 8192 * 4, no),
        Seed(kernels.k08a, 16384, (big, between), 2048, 4, 256 * MEGA, no),
        Seed(kernels.k08b, 16384, (between, out), 2048, 4, 256 * MEGA, no),
        Seed(kernels.k10, 1024, (whole, counts), 1024, 4, 4 * MEGA + 32, no),
    ]


def cuda_calls() -> list[tuple[str, Callable[[], None], int]]:
    """(name, launch, bytes needed) of the CUDA C++ kernels."""
    import cupy

    module = cupy.RawModule(code=SOURCE.read_text(), options=("-lineinfo",))
    units = torch.cuda.get_device_properties(0).multi_processor_count
    x, y = cupy.random.rand(16 * MEGA, dtype=cupy.float32), cupy.empty(16 * MEGA, cupy.float32)
    k02, k06, k09 = (module.get_function(name) for name in ("k02", "k06", "k09"))
    k09.max_dynamic_shared_size_bytes = SHARED
    tail, steps, stride = 2 * units + 1, 32, units * 16 * 128
    return [
        ("k02", lambda: k02((4096,), (32, 32), (x, y, 256)), 32 * MEGA),
        ("k06", lambda: k06((tail,), (1024,), (x, y, 4096)), tail * 1024 * 8),
        (
            "k09",
            lambda: k09((units * 16,), (128,), (x, y, steps, stride), shared_mem=SHARED),
            stride * (steps + 1) * 4,
        ),
    ]


def compiled(capability: int) -> dict[str, bytes]:
    """Machine code of the Triton kernels for a compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {torch.float32: "*fp32", torch.int32: "*i32"}
    made = {}
    for seed in triton_seeds("meta"):
        signature: dict[str, str] = {}
        for name, value in zip(seed.kernel.arg_names, seed.arguments, strict=False):
            signature[name] = pointers[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        source = ASTSource(seed.kernel, {**signature, "BLOCK": "constexpr"}, constexprs={"BLOCK": seed.block})
        options = {"num_warps": seed.warps, **seed.options}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        made[built.metadata.name] = built.asm["cubin"]
    return made


def main(needed_file: Path) -> None:
    calls = [(seed.kernel.fn.__name__, seed.run, seed.needed) for seed in triton_seeds("cuda")] + cuda_calls()
    calls.sort(key=lambda call: call[0])
    for _, run, _ in calls:
        run()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for _, run, _ in calls:
        run()
        torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    needed_file.write_text(json.dumps({name: needed for name, _, needed in calls}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
