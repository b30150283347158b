"""What a launch did with the hardware, from its counters: bytes by level of the memory, pipes, instructions, rates.

Metrics are Nsight Compute's; what a report has not is None or left out, never zero.
"""

import re
from collections import Counter
from dataclasses import dataclass

from autotune.dashboard import counters
from autotune.profiling import launch_metrics as metrics
from autotune.profiling.launch_metrics import SECTOR, SECTORS, LaunchMetrics
from tuning_db.profile_records import KernelLaunch

L1_HITS: counters.Names = ("l1tex__t_sector_hit_rate.pct", "L1/TEX Hit Rate")
L2_HITS: counters.Names = ("lts__t_sector_hit_rate.pct", "L2 Hit Rate")
_PIPE = re.compile(
    r"sm__(?:inst_executed_pipe_(?P<inst>\w+)|pipe_(?P<cycles>\w+)_cycles_active)\.avg\.pct_of_peak_sustained_active"
)
PIPES = {
    "adu": "address divergence", "alu": "integer and logic (ALU)", "cbu": "branches (CBU)",
    "fma": "FP32 and integer multiply (FMA)", "fmaheavy": "FMA heavy", "fmalite": "FMA lite", "fp16": "FP16",
    "fp64": "FP64", "lsu": "loads and stores (LSU)", "shared": "shared by FP64 and tensor cores",
    "tensor": "tensor cores", "tex": "texture (TEX)",
    "tma": "bulk copies (TMA)", "uniform": "uniform", "xu": "transcendental and conversion (XU)",
}  # fmt: skip
_RATE = "smsp__sass_thread_inst_executed_op_{op}_pred_on.sum.per_cycle_elapsed"
_CLOCK = ("smsp__cycles_elapsed.avg.per_second", "sm__cycles_elapsed.avg.per_second")
# Of a thread's instruction: how many operations it is. Half precision works on pairs.
_OPERATIONS = {
    "FP64": {"dadd": 1, "dmul": 1, "dfma": 2},
    "FP32": {"fadd": 1, "fmul": 1, "ffma": 2},
    "FP16": {"hadd": 2, "hmul": 2, "hfma": 4},
}  # fmt: skip
_PEAKS = {
    "FP64": "derived__sm__sass_thread_inst_executed_op_dfma_pred_on_x2",
    "FP32": "derived__sm__sass_thread_inst_executed_op_ffma_pred_on_x2",
    "FP16": "derived__sm__sass_thread_inst_executed_op_hfma_pred_on_x4",
}  # fmt: skip
_TENSOR = re.compile(r"sm__ops_path_tensor_(?P<path>\w+)\.sum\.per_second")


@dataclass(frozen=True)
class Traffic:
    """Bytes between neighbouring levels of the memory. requested: sectors asked of the first-level cache, by size."""

    requested_read: float | None
    requested_written: float | None
    fetched: float | None
    sent: float | None
    dram_read: float | None
    dram_written: float | None

    @property
    def known(self) -> bool:
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Roof:
    """An arithmetic ceiling. rate: what the launch reached of it, peak: both in operations a second."""

    name: str
    rate: float
    peak: float | None


@dataclass(frozen=True)
class Roofline:
    """bytes_s, bytes_peak: of DRAM a second; roofs: kinds of arithmetic that the launch did."""

    bytes_s: float
    bytes_peak: float | None
    roofs: tuple[Roof, ...]


def traffic(launch: KernelLaunch) -> Traffic:
    here = LaunchMetrics(launch)

    def sectors(*operations: str) -> float | None:
        names = [f"{SECTORS}{space}_op_{op}.sum" for space in ("global", "local") for op in operations]
        found = [value for name in names if (value := here.number(name)) is not None]
        return SECTOR * sum(found) if found else None

    return Traffic(
        sectors("ld"), sectors("st", "atom", "red"), here.number(metrics.FETCHED), here.number(metrics.SENT),
        here.number(metrics.DRAM_READ), here.number(metrics.DRAM_WRITE),
    )  # fmt: skip


def pipes(launch: KernelLaunch) -> list[counters.CounterValue]:
    """Pipes of a multiprocessor by the share of the active cycles that they were used in, the busiest first."""
    found: dict[str, counters.CounterValue] = {}
    for name in launch.metrics:
        match = _PIPE.fullmatch(name)
        value = launch.metrics.number(name)
        pipe = match and (match["inst"] or match["cycles"])
        if not pipe or value is None or pipe.endswith("_pred_on_any"):
            continue
        label = PIPES.get(pipe, pipe.replace("_", " "))
        # Cycles tell more than instructions: one of a tensor core takes many.
        if label not in found or (match and match["cycles"]):
            found[label] = counters.CounterValue(label, name, "%", value)
    return sorted(found.values(), key=lambda f: (-f.value, f.label))


def instruction_mix(launch: KernelLaunch) -> tuple[Counter[str], bool]:
    """How often warps executed each opcode, and True; of a report that did not count, how often it stands in the
    machine code, and False."""
    counted = any(line.executed is not None for line in launch.lines)
    mix: Counter[str] = Counter()
    for line in launch.lines:
        mix[opcode(line.sass)] += (line.executed or 0) if counted else 1
    return mix, counted


def opcode(sass: str) -> str:
    """`@!P0  LDG.E.128 R4, [R2.64] ;` → `LDG`."""
    words = sass.split()
    word = next((word for word in words if not word.startswith("@")), "?")
    return word.rstrip(";").partition(".")[0] or "?"


def roofline(launch: KernelLaunch) -> Roofline | None:
    """None where the report has not counted both bytes and operations."""
    here = LaunchMetrics(launch)
    clock = next((value for name in _CLOCK if (value := here.number(name)) is not None), None)
    read, written = (here.number(f"dram__bytes_{way}.sum.per_second") for way in ("read", "write"))
    if clock is None or read is None:
        return None
    roofs = []
    for name, operations in _OPERATIONS.items():
        rates = {op: here.number(_RATE.format(op=op)) for op in operations}
        known = sum(operations[op] * value for op, value in rates.items() if value is not None)
        if known:
            peak = here.number(_PEAKS[name])
            roofs.append(Roof(name, known * clock, peak * clock if peak else None))
    for metric in launch.metrics:
        match, value = _TENSOR.fullmatch(metric), here.number(metric)
        if match and value:
            peak = here.number(f"{metric.removesuffix('.per_second')}.peak_sustained_elapsed.per_second")
            roofs.append(Roof(f"tensor cores, {match['path'].replace('_', ' ')}", value, peak))
    if not roofs:
        return None
    width, dram = here.number("dram__bytes.sum.peak_sustained"), here.number("dram__cycles_elapsed.avg.per_second")
    return Roofline(read + (written or 0.0), width * dram if width and dram else None, tuple(roofs))
