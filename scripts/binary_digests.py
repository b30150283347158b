#!/usr/bin/env python
"""Digest the machine code of every default and shipped configuration, or check with --check that none changed.

No GPU is needed, and none of the code runs: it is compiled for processors named here, whatever this machine is. A
digest leaves out names, lines and paths, so that moving or renaming a template's source changes nothing.

Example: scripts/binary_digests --check
"""

import hashlib
import json
import multiprocessing
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from autotune.commands import spaces
from autotune.runner.meta_problem import MetaProblem
from autotune.screening import cubin
from kernel_templates import formats, registry
from kernel_templates.cpu import embedding, thread_pool
from kernel_templates.cpu.compile import Kernel, compile_kernel
from kernel_templates.cuda import expand as cuda_expand
from kernel_templates.cuda import weights
from kernel_templates.cuda.crosscompile import cross_compile
from kernel_templates.cuda.embedding import Embedding
from kernel_templates.cuda.launch import Launch
from kernel_templates.cuda.vector import Vector
from kernel_templates.device import Device
from kernel_templates.operation import Weight
from kernel_templates.sample_token import cuda as sample_token
from kernel_templates.space import Config, Space
from tuning_db import shipped

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "benchmarks" / "binary_digests.json"
PINNED = {"TRITON_DISABLE_LINE_INFO": "1", "PYTHONHASHSEED": "0"}
BACKENDS = ("cuda", "cpu")
VERSIONS = ("triton", "numba", "llvmlite")
EXECUTABLE, ALLOCATED = 4, 2  # flags of an ELF section
NO_BITS, RELOCATIONS = 8, 4  # kinds of ELF sections
COMMON = 0xFFF2

FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q6_K", "F16", "BF16", "F32")
QUANTIZED = ("Q4_0", "Q4_1", "Q8_0", "Q6_K")
GPUS = {
    70: Device("cuda", "Tesla V100 SXM2", "7.0", 80, 32 << 30),
    80: Device("cuda", "A100 80GB SXM", "8.0", 108, 80 << 30),
    90: Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30),
}
CPUS = {  # LLVM's names, and the features that templates ask for
    "znver4": frozenset({"sse2", "avx2", "avx512bw", "avx512vnni"}),
    "haswell": frozenset({"sse2", "avx2"}),
    "ivybridge": frozenset({"sse2"}),
}
SHAPES = {  # hidden -> heads, key heads, dimensions of a head, QK-norm, ffn, vocabulary
    576: (9, 3, 64, 0, 1536, 49152),
    1024: (16, 8, 128, 1, 3072, 151936),
    4096: (32, 8, 128, 1, 12288, 151936),
}
MORE = (
    "matmul:rows=1024,cols=1024,format=Q4_0,tokens=4",
    "matmul:rows=1024,cols=1024,format=Q4_0,tokens=16,gate=silu",
    "moe:hidden=1024,ffn=512,experts=64,used=8,router_format=F32,gate_format=Q4_K,up_format=Q4_K,down_format=Q6_K,"
    "activation=int16,normalized=1",
    "moe:hidden=1024,ffn=512,experts=32,used=4,router_format=F32,gate_format=MXFP4,up_format=MXFP4,down_format=MXFP4,"
    "activation=int16,gate_function=swiglu_oai,routing=softmax_of_chosen,bias=1",
    "grouped_matmul:rows=768,cols=1024,format=Q4_0,experts=64,used=8,tokens=512,gate=silu",
    "grouped_matmul:rows=1024,cols=512,format=MXFP4,experts=32,used=4,tokens=8,x_of=pair",
    "gated_delta:heads=32,key_heads=16,head_dim=128,kernel=4,tokens=512",
    "gated_delta:heads=32,key_heads=16,head_dim=128,kernel=4,sequences=8",
)
"""Beside an example of each operation, forms that have kernels of their own."""
TELLING = ("path=", "lanes=128", "streams=2", "prefetch=4096")  # of a CPU's parameters, for formats besides the first
CONTEXTS = (160, 640, 2560, 10240)


@dataclass(frozen=True)
class Item:
    """What one call compiles. target: a key of GPUS or CPUS; what: a problem's key, or the name of kernels that no
    problem has, with their arguments; label: "default", "shipped" or what differs from the default; config: None is the
    default."""

    target: int | str
    what: str
    label: str = "default"
    config: tuple[tuple[str, Any], ...] | None = None


def problems(hidden: int, name: str, activation: str = "int16") -> dict[str, str]:
    """Operation -> key of a problem whose weights all have one format; "layer" is at the first context."""
    heads, kv_heads, dim, qk_norm, ffn, vocab = SHAPES[hidden]
    shape = f"hidden={hidden},heads={heads},kv_heads={kv_heads},head_dim={dim},rope_dim={dim},qk_norm={qk_norm}"
    qkv = f"q_format={name},k_format={name},v_format={name}"
    ffns = f"gate_format={name},up_format={name},down_format={name}"
    act = f"activation={activation}"
    return {
        "norm_qkv_rope": f"norm_qkv_rope:{shape},{qkv},{act}",
        "matvec": f"matvec:rows={hidden},cols={heads * dim},format={name},{act}",
        "ffn": f"ffn:hidden={hidden},ffn={ffn},{ffns},{act}",
        "head": f"head:vocab={vocab},hidden={hidden},format={name},{act}",
        "layer": f"layer:{shape},ffn={ffn},{qkv},out_format={name},{ffns},{act},context={CONTEXTS[0]}",
    }


def attention(hidden: int, context: int) -> str:
    heads, kv_heads, dim, *_ = SHAPES[hidden]
    return f"attention:heads={heads},kv_heads={kv_heads},head_dim={dim},context={context}"


def others(backend: str) -> Iterator[str]:
    """Keys of problems of the operations that `problems` and `attention` have none of."""
    listed = {*problems(1024, "Q4_0"), "attention", *(("matmul",) if backend == "cpu" else ())}
    for op in (op for op in registry.OPERATIONS if op not in listed and registry.has_template(op, backend)):
        yield spaces.example(op)
        gates = backend == "cuda"  # which the processor's products of several experts leave to another kernel
        yield from (key for key in MORE if key.startswith(f"{op}:") and (gates or ",gate=" not in key))


def fits(name: str, hidden: int) -> bool:
    """Whether rows of so many columns are whole blocks of a format."""
    return hidden % formats.get(name).block == 0


def mixed(problem: str) -> str:
    """The key with formats as files mix them: V and down in Q6_K."""
    for field in ("v_format", "down_format"):
        problem = problem.replace(f"{field}=Q4_0", f"{field}=Q6_K")
    return problem


def cuda_items() -> Iterator[Item]:
    """Defaults for every GPU, then what the newest gets besides them: shapes, values of parameters, shipped winners."""
    for gpu in GPUS:
        for name in FORMATS if gpu > 70 else ("Q4_0", "Q8_0", "F16"):
            yield from (Item(gpu, key) for key in problems(1024, name).values())
            yield from (Item(gpu, f"{part} {name} 1024") for part in ("greedy", "embed"))
            if name != "F32":
                yield Item(gpu, f"expand {name} 2048")
        yield from (Item(gpu, attention(hidden, context)) for hidden in SHAPES for context in CONTEXTS)
        yield from (Item(gpu, mixed(problems(1024, "Q4_0")[op])) for op in ("norm_qkv_rope", "ffn", "layer"))
        yield from (Item(gpu, f"sample Q4_0 {hidden}") for hidden in SHAPES)
        yield from (Item(gpu, key) for key in others("cuda") if gpu > 70)
    for name in FORMATS:
        yield from (Item(90, f"embed {name} 16384 {activation}") for activation in ("int16", "int8", "float"))
        yield from (Item(90, f"greedy {name} {hidden}") for hidden in (576, 4096) if fits(name, hidden))
    for hidden, names in ((576, ("Q4_1", "Q8_0", "F32")), (4096, ("Q4_0", "Q6_K", "BF16"))):
        yield from (Item(90, key) for name in names for key in problems(hidden, name).values())
    for name in QUANTIZED:
        yield from (Item(90, key) for key in problems(1024, name, "int8").values())
    some = problems(1024, "Q4_0")
    for key in (some["matvec"], some["ffn"], attention(1024, 160), attention(1024, 2560)):
        yield from each_value(90, key, registry.cuda_space(registry.parse_problem(key), GPUS[90]))
    yield from winners("cuda", 90)


def cpu_items(cpu: str) -> Iterator[Item]:
    """Defaults and values of parameters; of all formats and shapes only for the first processor."""
    first = cpu == next(iter(CPUS))
    for name in FORMATS if first else ("Q4_0", "F16"):
        for hidden in (h for h in SHAPES if fits(name, h) and (first or h == 576)):
            yield from (Item(cpu, key) for op, key in problems(hidden, name).items() if op != "layer")
        for activation in ("int16", "int8") if name in QUANTIZED else ("int16",):
            values = each_cpu_value(cpu, problems(1024, name, activation)["matvec"])
            yield from (v for v in values if (name, activation) == ("Q4_0", "int16") or v.label.startswith(TELLING))
        yield Item(cpu, f"embed {name} 1024")
        yield from (Item(cpu, f"matmul:rows=1024,cols=1024,format={name},tokens={tokens}") for tokens in (4, 512))
    for name in QUANTIZED if first else ():
        yield from (Item(cpu, key) for op, key in problems(1024, name, "int8").items() if op != "layer")
    some = problems(1024, "Q4_0")
    yield from (Item(cpu, mixed(some[op])) for op in ("norm_qkv_rope", "ffn"))
    yield from (Item(cpu, attention(hidden, 512)) for hidden in SHAPES)
    for key in (some["norm_qkv_rope"], some["ffn"], some["head"], attention(4096, 512)):
        yield from each_cpu_value(cpu, key)
    yield from (Item(cpu, key) for key in others("cpu"))
    yield Item(cpu, "team")
    if first:
        yield from winners("cpu", cpu)


def each_cpu_value(cpu: str, key: str) -> Iterator[Item]:
    problem = registry.parse_problem(key)
    return each_value(cpu, key, registry.cpu_space(problem, CPUS[cpu]))


def each_value(target: int | str, key: str, space: Space) -> Iterator[Item]:
    """The default with one parameter changed, for every other value that leaves it valid."""
    for parameter in space.parameters:
        for value in parameter.values:
            config = {**space.default, parameter.name: value}
            if value != parameter.default and space.broken(config) is None:
                yield Item(target, key, f"{parameter.name}={value}", tuple(config.items()))


def winners(backend: str, target: int | str) -> Iterator[Item]:
    """What is shipped for a backend, whichever chip it is for."""
    for path in sorted(shipped.FOLDER.glob(f"{backend}-*.jsonl")):
        for fact in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if fact.get("kind") == "winner":
                yield Item(target, fact["problem"], "shipped", tuple(fact["config"].items()))


def digests(item: Item) -> dict[str, str]:
    """Name -> digest of each kernel of an item, in the order in which they are launched."""
    if isinstance(item.target, int):  # what a library does is not compiled here
        found = [cuda_digest(made, item.target) for made in launches(item) if isinstance(made, Launch)]
        target = f"sm{item.target}"
    else:
        made = kernels(item)
        found, target = [cpu_digest(kernel) for one in made for kernel in (one, *one.rows)], item.target
    return {f"{target} | {item.what} | {item.label} | {number}": text for number, text in enumerate(found)}


@lru_cache(maxsize=4)
def blueprint(problem: str) -> MetaProblem:
    return MetaProblem(registry.parse_problem(problem))


def launches(item: Item) -> list[Launch]:
    """An item's GPU kernels, over tensors without memory."""
    if ":" in item.what:
        plan = blueprint(item.what)
        space = registry.cuda_space(plan.problem, GPUS[int(item.target)])
        return plan.launches(space.default if item.config is None else space.completed(dict(item.config)))
    part, name, columns, *rest = item.what.split()
    hidden, activation = int(columns), (*rest, "int16")[0]
    raw = torch.empty((64, formats.get(name).row_bytes(hidden)), dtype=torch.uint8, device="meta")
    if part == "expand":
        planes = weights.pack([Weight(raw, hidden, name)], "meta")
        return [cuda_expand.launch(planes, torch.empty(64 * hidden, dtype=torch.float16, device="meta"))]
    buffers, norm = end_of_token(hidden), torch.empty(hidden, device="meta")
    embedding = Embedding(raw, name, hidden)
    if part == "sample":
        scratch = sample_token.Scratch.allocate(buffers["logits"].numel(), "meta")
        return sample_token.launches_sampling(buffers, embedding, scratch, norm)
    if part == "greedy":
        return sample_token.launches_greedy(buffers, embedding, norm)
    return sample_token.launches_embed(buffers, embedding, norm, activation)


def end_of_token(hidden: int) -> dict[str, Any]:
    """What the kernels after the head read and write, for a vocabulary of the shape's size."""
    vocab = SHAPES.get(hidden, SHAPES[4096])[-1]

    def whole(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int32, device="meta")

    return {
        "x": Vector.allocate(hidden, "meta"), "logits": torch.empty(vocab, device="meta"),
        "best_value": torch.empty(vocab // 8, device="meta"), "best_id": whole(vocab // 8), "position": whole(1),
        "token": whole(1), "history": whole(4096), "status": whole(1),
    }  # fmt: skip


def kernels(item: Item) -> list[Kernel]:
    """An item's CPU kernels, compiled here: what a cache gives back has no module that could be digested."""
    os.environ["AUTOTUNE_NO_KERNEL_CACHE"] = "1"
    if ":" in item.what:
        problem, features = registry.parse_problem(item.what), CPUS[str(item.target)]
        default = registry.cpu_space(problem, features).default
        return [
            registry.cpu(problem.op).compile(
                problem, default if item.config is None else Config(dict(item.config)), features
            )
        ]
    part, *rest = item.what.split()
    if part == "team":
        loops = (thread_pool._run, thread_pool._serve, thread_pool._close)
        return [compile_kernel(loop, f"team {loop.__name__}", loop.__code__.co_argcount) for loop in loops]
    return [embedding.compile(rest[0], int(rest[1]))]


def cuda_digest(launch: Launch, capability: int) -> str:
    """Of a cubin's instructions and constants; beside it what the hardware gives the kernel, and its grid and warps."""
    made = cross_compile(launch, capability)
    digest = hashlib.sha256()
    for section in sections(made.cubin):
        if section.flags & EXECUTABLE or section.name.startswith((".nv.constant", ".nv.global")):
            digest.update(struct.pack("<QQ", section.flags & EXECUTABLE, len(section.body)) + section.body)
    found = cubin.read(made.cubin)
    used = f"registers={found.registers} stack={found.spills} shared={made.shared}"
    grid = "x".join(map(str, launch.grid))
    return f"{digest.hexdigest()[:32]} {used} grid={grid} warps={launch.warps}"


def cpu_digest(kernel: Kernel) -> str:
    """Of the instructions and constants of numba's object file, and of what they refer to, by place; kernels that
    several problems share are compiled once a process."""
    owner: Any = kernel.owner
    if owner.native_name not in known:
        library = owner._library
        known[owner.native_name] = object_digest(library._codegen._tm.emit_object(library._final_module))
    return known[owner.native_name]


known: dict[str, str] = {}
"""Symbol of a CPU kernel -> digest, in a worker."""


def object_digest(data: bytes) -> str:
    parts = sections(data)
    digest, size = hashlib.sha256(), 0
    for section in parts:
        if section.kind == RELOCATIONS and parts[section.info].flags & EXECUTABLE:
            digest.update(repr(list(references(section, parts))).encode())
        elif section.kind == 1 and section.flags & ALLOCATED and section.name != ".eh_frame":
            digest.update(f"{section.name} {len(section.body)} ".encode() + section.body)
            size += len(section.body) if section.flags & EXECUTABLE else 0
    return f"{digest.hexdigest()[:32]} bytes={size}"


@dataclass(frozen=True)
class Section:
    """A part of an ELF file; info, link: numbers of other sections, by its kind."""

    name: str
    kind: int
    flags: int
    info: int
    link: int
    body: bytes


def sections(data: bytes) -> list[Section]:
    """Of an ELF-64 file, such as an object file or a cubin."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQII", data, start + i * size) for i in range(count)]
    table = data[headers[names][4] :]
    return [
        Section(text(table, name), kind, flags, info, link, b"" if kind == NO_BITS else data[offset : offset + length])
        for name, kind, flags, _, offset, length, link, info in headers
    ]


def references(section: Section, parts: list[Section]) -> Iterator[tuple[int, int, int, str, int]]:
    """(place, kind, addend, what, offset in it): "what" is a section, or the name of a function that lies outside."""
    symbols = parts[section.link]
    names = parts[symbols.link].body
    for place, info, addend in struct.iter_unpack("<QQq", section.body):
        name, _, _, where, value, _ = struct.unpack_from("<IBBHQQ", symbols.body, 24 * (info >> 32))
        what = text(names, name) if where == 0 else "common" if where == COMMON else parts[where].name
        yield place, info & 0xFFFFFFFF, addend, what, value


def text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def compile_all(items: list[Item], jobs: int, pinned: Mapping[str, str]) -> dict[str, str]:
    """Digests by name, sorted. Processes are new ones, since some settings count only when a process starts; their
    caches are empty ones."""
    os.environ.update(PINNED, **pinned)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), cache_below, (folder,)) as pool,
    ):
        found = [entry for made in pool.map(digests, dict.fromkeys(items), chunksize=4) for entry in made.items()]
    return dict(sorted(found))


def cache_below(folder: str) -> None:
    """A worker's own cache, in which nothing lies that another commit compiled."""
    os.environ["AUTOTUNE_CACHE"] = f"{folder}/{os.getpid()}"


def everything(jobs: int, backends: Collection[str]) -> dict[str, dict[str, str]]:
    """Backend -> name -> digest."""
    found: dict[str, dict[str, str]] = {}
    if "cuda" in backends:
        found["cuda"] = compile_all(list(cuda_items()), jobs, {})
    if "cpu" in backends:
        found["cpu"] = {}
        for cpu in CPUS:  # an empty list of features: those that LLVM knows the processor to have
            pinned = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
            found["cpu"] |= compile_all(list(cpu_items(cpu)), jobs, pinned)
    return found


def circumstances() -> dict[str, Any]:
    """What digests depend on besides the sources; and the commit, which is for the reader."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit or "unknown",
        "machine": platform.machine(),
        "cpus": {name: sorted(features) for name, features in CPUS.items()},
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in VERSIONS},
    }


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """The backends that can be compared here; exits where compilers differ, since then everything may."""
    others = [f"{name} {before[name]}, not {now[name]}" for name in ("python", *VERSIONS) if before[name] != now[name]]
    if others:
        sys.exit(f"{TARGET.name} was made with {', '.join(others)}: nothing can be compared")
    if before["machine"] == now["machine"]:
        return BACKENDS
    print(f"The CPU part is for {before['machine']} and this is {now['machine']}: it is not compared.")
    return ("cuda",)


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """A line for every name whose digest is another, or is on one side only."""
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"missing: {name}"
        elif name not in before:
            yield f"added: {name}"
        elif before[name] != now[name]:
            yield f"changed: {name}: {before[name]} -> {now[name]}"


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail when the code is not what the file says.")
@click.option("--backend", type=click.Choice(BACKENDS), help="Check only this one's.")
@click.option("--jobs", default=2, show_default=True, help="Processes that compile side by side.")
def main(check: bool, backend: str | None, jobs: int) -> None:
    """Write benchmarks/binary_digests.json.

    Example: scripts/binary_digests --check
    """
    if backend and not check:
        raise click.UsageError("the file has both backends; --backend goes with --check")
    start, made = time.perf_counter(), circumstances()
    before = json.loads(TARGET.read_text(encoding="utf-8")) if check else {}
    wanted = comparable(before["made"], made) if check else BACKENDS
    found = everything(jobs, [name for name in wanted if backend in (None, name)])
    counts = " and ".join(f"{len(entries)} for {backend}" for backend, entries in found.items())
    lines = [line for backend in found for line in differences(before[backend], found[backend])] if check else []
    if not check:
        TARGET.write_text(json.dumps({"made": made, **found}, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*lines, f"{counts}: {len(lines)} differ, {time.perf_counter() - start:.0f} s"]))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
