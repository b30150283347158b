"""Databases for the dashboard's tests: searches and profiles with numbers of realistic size and spread."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from autotune.precision.precision_result import (
    Activation,
    Beside,
    Divergence,
    EngineDivergence,
    FileRow,
    ModelPrecision,
    NormWeight,
    OperationError,
)
from kernel_templates.device import Device
from tuning_db import open_db, profiles, rows
from tuning_db.profile_records import (
    Columns,
    HostWait,
    KernelLaunch,
    Metrics,
    Profile,
    Provenance,
    Range,
    ReportTable,
    RowKind,
    RuleFinding,
    SourceLine,
)  # fmt: skip
from tuning_db.records import Measurement, Outcome, Run, Trial, Winner

HOSTILE = '</script><img src=x onerror="document.title=1">'
H100 = Device(
    "cuda",
    "NVIDIA H100 80GB HBM3",
    "9.0",
    132,
    85_017_493_504,
    (("cuda", "13.0"), ("driver", "580"), ("triton", "3.6.0")),
)
SPACE = {
    "ahead": (1, 2, 3), "each": (1, 2, 4), "early": (0, 1), "ready": (0, 1), "source": ("planes", "blocks"),
    "steps": (1, 2, 4, 8), "stream": (0, 1), "units": (16, 32, 64), "warps": (2, 4, 8),
}  # fmt: skip
STALLS = ("long_scoreboard", "short_scoreboard", "barrier", "math_pipe_throttle", "wait", "mio_throttle", "lg_throttle")
METRICS = {
    "gpu__time_duration.sum": "ns", "sm__throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "%",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "%", "sm__maximum_warps_per_active_cycle_pct": "%",
    "launch__occupancy_limit_registers": "block", "launch__occupancy_limit_shared_mem": "block",
    "launch__occupancy_limit_warps": "block", "launch__registers_per_thread": "register/thread",
    "launch__waves_per_multiprocessor": "", "dram__bytes_read.sum": "byte", "autotune__bytes_needed": "byte",
    **{f"smsp__average_warps_issue_stalled_{s}_per_issue_active.ratio": "inst" for s in STALLS},
    "l1tex__t_sector_hit_rate.pct": "%", "lts__t_sector_hit_rate.pct": "%",
    "l1tex__m_xbar2l1tex_read_bytes.sum": "byte", "dram__bytes_read.sum.per_second": "byte/s",
    "sm__inst_executed_pipe_lsu.avg.pct_of_peak_sustained_active": "%",
    "sm__pipe_fma_cycles_active.avg.pct_of_peak_sustained_active": "%",
    "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum.per_cycle_elapsed": "inst/cycle",
    "derived__sm__sass_thread_inst_executed_op_ffma_pred_on_x2": "thread",
    "smsp__cycles_elapsed.avg.per_second": "hz",
    **{f"other__metric_{number}.sum": "" for number in range(270)},
}  # fmt: skip


def record(
    path: Path, runs: int, trials: int, problems: int, seed: int = 0, drift: float = 0.0, note: str = ""
) -> None:
    """`runs` searches of `trials` trials each, over `problems` problems. drift: what all times are longer by."""
    rng = random.Random(seed)
    with open_db(path) as db:
        db.remember_device(H100)
        db.set_ceilings(H100, {"read_gb_s": 3177.4, "copy_gb_s": 2989.9})
        for number in range(runs):
            rows_ = 576 * (1 + number % problems)
            key = f"matvec:rows={rows_},cols=1024,format=Q4_0,activation=int16{note}"
            bytes_ = rows_ * 1024 * 18 // 32
            run = db.begin_run(
                H100, Run(key, 1, "pool", 0, 5184, bytes_, rows_ * 2048, {"commit": f"abc{seed}", "torch": "2.11.0"})
            )
            _search(db, rng, run, key, bytes_, trials, drift, note)
            db.finish_run(run, "finished")


def _search(db, rng: random.Random, run: int, key: str, bytes_: int, trials: int, drift: float, note: str) -> None:
    best: tuple[float, int, dict, Measurement] | None = None
    base = 1500 + bytes_ / 2.0
    records = []
    for _ in range(trials):
        config = {name: rng.choice(values) for name, values in SPACE.items()}
        if rng.random() < 0.03:
            records.append(
                (
                    Trial(config, Outcome.TIMED_OUT, None, 8.0, None, None, f"compiling: no answer within 8 s{note}"),
                    None,
                )
            )
            continue
        time = base * (1 + 0.4 * (config["source"] == "blocks") + 0.1 * abs(config["warps"] - 4) + 0.3 * rng.random())
        time *= 1 + drift + rng.gauss(0, 0.004)
        measured = Measurement(time * 0.997, time, time * 1.004, 7)
        records.append(
            (Trial(config, Outcome.OK, measured, rng.uniform(0.2, 2.0), rng.uniform(1e-5, 2e-5), 0.015), measured)
        )
    first, began = None, datetime.now(UTC)
    with db._transaction():  # one for all: these tests want a full database, not to wait for a disk
        for place, (trial, measured) in enumerate(records, 1):
            ended = (began + timedelta(seconds=place / 4)).isoformat(timespec="milliseconds")
            row = {"run_id": run, **rows.trial_row(trial), "created_at": ended}
            number = db._insert("run_trials", row)
            if measured:
                first = first or measured
                if best is None or measured.median_ns < best[0]:
                    best = (measured.median_ns, number, dict(trial.config), measured)
    assert best and first
    db.set_winner(H100, Winner(key, 1, best[2], best[3], first.median_ns, 1e-5, 0.015), run, best[1])


def profile(
    kernels: int, instructions: int, seed: int = 0, name: str = "report.ncu-rep", kernel: str = "_product_kernel"
) -> Profile:
    """An Nsight Compute report of `kernels` launches with counters, rules and sampled machine code."""
    rng = random.Random(seed)
    columns = Columns(tuple(METRICS), tuple(METRICS.values()))
    launches = []
    for place in range(kernels):
        numbers = np.array([rng.uniform(1, 95) for _ in METRICS])
        numbers[list(METRICS).index("gpu__time_duration.sum")] = rng.uniform(1500, 60_000)
        launches.append(
            KernelLaunch(
                place, f"{kernel}_{place}", grid=(132, 1, 1), block=(128, 1, 1), duration_ns=rng.uniform(1500, 60_000),
                problem="matvec:rows=576,cols=1024,format=Q4_0,activation=int16", config={"warps": 4}, role="winner",
                metrics=Metrics(columns, numbers), findings=_findings(rng), lines=_lines(rng, instructions),
            )
        )  # fmt: skip
    origin = Provenance(
        name, f"{seed:064x}", 1_000_000, "Nsight Compute", "ncu-rep", "2026.3.1", "NVIDIA H100 80GB HBM3",
        {"sm": 1.7e9, "dram": 2.6e9}, H100.fingerprint, "2026-11-26T19:00:00+00:00", kernels, kernels,
    )  # fmt: skip
    source = "\n".join(
        f"    acc += tl.sum(weights{line} * vector{line}, axis=1)  # step {line}" for line in range(1, 121)
    )
    return Profile(origin, tuple(launches), (), {"product.py": source})


def timeline(name: str = "token.sqlite", kernel: str = "kernel") -> Profile:
    """An Nsight Systems timeline: two streams, 1 µs gaps."""
    launches, at = [], 1_000_000
    for place in range(40):
        launches.append(
            KernelLaunch(place, f"{kernel}_{place % 5}", start_ns=at, duration_ns=2000.0, stream=7, range=0)
        )
        at += 3000
    origin = Provenance(name, "f" * 64, 5000, "Nsight Systems", "sqlite", found=40, expected=50)
    return Profile(origin, tuple(launches), (Range("decode step"),))


def summed(name: str, kernel: str = "kernel") -> Profile:
    """What nsys stats sums up, and trials of another tuner."""
    launches = (
        KernelLaunch(0, kernel, RowKind.SUMMARY, duration_ns=9000.0, count=3),
        KernelLaunch(1, "[CUDA memcpy HtoD]", RowKind.COPY, duration_ns=500.0, count=2, bytes=4096, direction="HtoD"),
        KernelLaunch(2, kernel, RowKind.TRIAL, duration_ns=700.0, config={"block_sizes": [32, 64], "num_warps": 4}),
        KernelLaunch(3, kernel, RowKind.TRIAL, config={"block_sizes": [64, 64], "num_warps": 8}),
    )
    columns, units = ("Time", "Total Time", "Instances", "Range"), ("%", "ns", "", "")
    table = ReportTable("nvtx_sum", "Time of NVTX ranges, on the host", columns, units, ((80.0, 8e5, 4.0, kernel),))
    return Profile(Provenance(name, "e" * 64, 500, "Nsight Systems", "nsys stats", found=4), launches, tables=(table,))


def busy_trace(kernels: int, copies: int, name: str = "train.sqlite", seed: int = 0) -> Profile:
    """Two GPUs, a stream of kernels and two of copies on each; steps of layers as NVTX ranges; the host calls a launch
    3 µs before it starts, and waits now and then."""
    rng = random.Random(seed)
    functor = "at::native::Functor_{}<float>"
    kernel = f"void at::native::elementwise_kernel<4, {functor}>(int, {functor})"
    names = [kernel.format(n, n) for n in range(30)] + [f"sm90_xmma_gemm_f16_tile{n}" for n in range(10)]
    launches, waits = [], []
    ranges: list[Range] = []
    clock = {(gpu, stream): 1_000_000_000 for gpu in (0, 1) for stream in (7, 13, 14)}
    step = 0
    for place in range(kernels + copies):
        now = max(clock.values())
        if place % 600 == 0:
            ranges.append(Range(f"step {place // 600}", None, "", 100, now, now, "push_pop"))
            step = len(ranges) - 1
        if place % 60 == 0:
            ranges.append(Range(f"layer {place // 60 % 10}", step, "", 100, now, now, "push_pop"))
        if rng.random() < 0.001:
            waits.append(HostWait("cudaStreamSynchronize", now, now + 200_000, 1, 100))
            clock = dict.fromkeys(clock, now + 250_000)
        gpu, copy = rng.randrange(2), place % 6 == 5
        stream = rng.choice((13, 14)) if copy else 7
        start, length = clock[gpu, stream] + rng.randrange(600, 4000), int(rng.lognormvariate(8.5, 0.8))
        clock[gpu, stream] = start + length
        way = "HtoD" if stream == 13 else "DtoH"
        launches.append(
            KernelLaunch(
                place, f"[CUDA memcpy {way}]" if copy else names[int(rng.betavariate(1, 3) * 40)],
                RowKind.COPY if copy else RowKind.KERNEL, start_ns=start, duration_ns=length, stream=stream,
                range=len(ranges) - 1, device=gpu, process=1, bytes=rng.randrange(10**6) if copy else None,
                direction=way if copy else None, called_ns=start - 3000,
            )
        )  # fmt: skip
        for open_range in (step, len(ranges) - 1):
            ranges[open_range] = replace(ranges[open_range], end_ns=max(ranges[open_range].end_ns or 0, now))
    about = Provenance(
        name, f"{seed + 12:064x}", 1, "Nsight Systems", "nsys SQLite", "2025.3.1", "NVIDIA H200",
        found=len(launches), expected=len(launches), devices={0: "NVIDIA H200", 1: "NVIDIA H200"},
    )  # fmt: skip
    return Profile(about, tuple(launches), tuple(ranges), waits=tuple(waits))


def _findings(rng: random.Random) -> tuple[RuleFinding, ...]:
    words = ("warps", "memory", "stall", "scheduler", "sector", "cycle", "issue", "coalesced", "global", "shared")
    return tuple(
        RuleFinding(
            f"Rule{n}", "SpeedOfLight", "optimization" if n else "ok", f"Finding {n}",
            " ".join(rng.choice(words) for _ in range(45)) + ".", rng.uniform(1, 60), "global" if n % 2 else "local",
        )
        for n in range(6)
    )  # fmt: skip


def _lines(rng: random.Random, count: int) -> tuple[SourceLine, ...]:
    names = (
        "LDG.E.128",
        "LDS.64",
        "FFMA",
        "IMAD",
        "HFMA2.MMA",
        "SHFL.BFLY",
        "IDP.4A.S8.S8",
        "BAR.SYNC",
        "STG.E",
        "PRMT",
    )
    lines = []
    for n in range(count):
        sass = f"{rng.choice(names)} " + ", ".join(f"R{rng.randrange(96)}" for _ in range(4)) + " ;"
        stalls = {rng.choice(STALLS): rng.randrange(1, 900)} if rng.random() < 0.4 else {}
        lines.append(
            SourceLine(
                16 * n,
                sass,
                "ld.global.v4.b32" if n % 3 == 0 else None,
                "product.py",
                1 + n * 100 // count,
                128,
                stalls,
            )
        )
    return tuple(lines)


def store(path: Path, found: Sequence[Profile]) -> None:
    with open_db(path) as db:
        for one in found:
            profiles.store(db, one)


def bench(model: str = "qwen3-0.6b-Q4_0.gguf") -> dict:
    """What `scripts/bench_gpu` writes, as far as the dashboard reads it."""
    operations = [
        ("qkv", 28, 50.0, 66e6),
        ("attention", 28, 60.0, 8e6),
        ("head", 1, 48.0, 128e6),
        ("pick", 1, 5.0, None),
    ]

    def side(scale: float) -> list[dict]:
        found = [
            {
                "kernel": kernel, "count": count, "us": us * scale, "us_each": us * scale / count, "bytes": size,
                "gb_s": size / (us * scale) / 1e3 if size else None, "share": 0.4 if size else None,
            }
            for kernel, count, us, size in operations
        ]  # fmt: skip
        total = {
            "kernel": "token",
            "count": 58,
            "us": 150.0 * scale,
            "us_each": 2.6,
            "bytes": 202e6,
            "gb_s": 1300.0,
            "share": 0.41,
        }
        return [*found, total]

    def decode(rate: float) -> dict:
        return {
            depth: {
                "tok_s": rate / scale,
                "gb_s": 1200.0,
                "share": 0.38,
                "kernels_per_token": 142,
                "bytes_per_token": 384e6,
            }
            for depth, scale in (("0", 1.0), ("4096", 1.6))
        }

    return {
        "date": "2026-11-26T19:04:21+00:00",
        "marks": {"engine": "llama.cpp", "decode": [802, 930], "prefill": [29000], "source": "measured"},
        "bench": {
            "model": model, "device": {"chip": H100.chip, "read_gb_s": 3177.4}, "versions": {"commit": "abc"},
            "operations": {"untuned": side(1.1), "tuned": side(1.0)},
            "untuned": {"prefill_tok_s": 60000.0, "decode": decode(3100.0)},
            "tuned": {"prefill_tok_s": 61000.0, "decode": decode(3300.0)},
        },
    }  # fmt: skip


def precision(model: str = "qwen3-0.6b-Q4_0.gguf") -> ModelPrecision:
    """What `autotune precision --json` prints as a document, of three layers; two files side by side, one unreadable to
    llama.cpp."""
    near, far = Divergence(256, 1.0, 6e-7, 4e-6, 6e-6), Divergence(256, 0.97, 3e-3, 1e-2, 2e-2)
    outputs = (("norm_qkv_rope", "keys"), ("ffn", ""))
    operations = [
        OperationError(path, layer, operation, output, 1e-4 * (layer + 1), 2e-4 * (layer + 1), 7)
        for path in ("decode", "prompt")
        for layer in range(3)
        for operation, output in outputs
    ]
    files = (
        FileRow(model, "autotune", 98_000_000, 5.8, 210.0, far),
        FileRow("large.gguf", "llama.cpp", 250_000_000, 16.0, None, None, "llama.cpp: the model could not be loaded"),
    )
    return ModelPrecision(
        model, "Some Xeon",
        (EngineDivergence("autotune", "decode", near), EngineDivergence("llama.cpp", "decode", far)),
        (*operations, OperationError("decode", None, "head", "", 4e-5, 6e-5, 0)),
        (
            NormWeight("blk.0.attn_k_norm.weight", 0, 17, 96.5, 1.25),
            NormWeight("output_norm.weight", None, 3, 2.0, 0.0),
        ),
        (Activation(2, 0, 507, 22552.0, 59.4),), Beside("large.gguf", files), ("a note",),
        {"commit": "0123456789ab"}, {"tokens": 256, "positions": 32},
    )  # fmt: skip
