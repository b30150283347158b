"""A GPU that is not there: operations with made-up times, and the worker program that serves them.

Run as a program with a pipe's number it serves the requests of `autotune.runner.protocol`. Times are in nanoseconds and
exact. What is fastest in a layer is not what is fastest alone. Configurations of "qkv" that fail, each in its way:

    rows 16, warps 1   does not compile          rows 16, warps 2   is wrong
    rows 16, warps 4   breaks CUDA               rows 16, warps 8   kills the process

the last two with one load ahead only, because each costs the beginning of another process.
"""

import math
import os
import random
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.runner import protocol
from autotune.runner.timing import compare_pair, summarize
from autotune.runner.worker import serve
from kernel_templates.device import Device
from kernel_templates.problem import Chain, Problem
from kernel_templates.space import Config, Parameter, Space

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
DEVICE = Device("cuda", "Fake 100", "9.0", 132, 80 << 30, (("driver", "1"), ("triton", "3")))
ROWS, WARPS, AHEAD = (1, 2, 4, 8, 16), (1, 2, 4, 8), (1, 2, 3, 4)
TOLERANCE = 0.01


@dataclass(frozen=True)
class Part(Problem, op="fakepart", template_version=1):
    """kind: "qkv", "attention", "out" or "ffn"; or "untuned", whose default is the fastest."""

    kind: str
    size: int

    @property
    def without_context(self) -> "Part":
        return replace(self, size=0) if self.kind == "attention" else self


@dataclass(frozen=True)
class Wide(Part, op="fakepart_wide", template_version=1):
    """A part of a pass over many tokens."""

    tokens: int


@dataclass(frozen=True)
class Layer(Chain, op="fakelayer", template_version=1):
    size: int
    context: int

    @property
    def without_context(self) -> "Layer":
        return replace(self, context=0)

    def parts(self) -> dict[str, Problem]:
        parts: dict[str, Problem] = {name: Part(name, self.size) for name in ("qkv", "out", "ffn")}
        return {**parts, "attention": Part("attention", self.context)}


PARAMETERS = (
    Parameter("rows", ROWS, 1, "rows of a program"),
    Parameter("warps", WARPS, 4, "warps of a program"),
    Parameter("ahead", AHEAD, 1, "loads in flight"),
)


def space(problem: Problem) -> Space:
    if not isinstance(problem, Layer):
        return Space(PARAMETERS)
    finish = Parameter("finish", ("here", "there"), "here", "belongs to no part")
    own = (p.in_part(part) for part in problem.parts() for p in PARAMETERS)
    return Space((finish, *own))


def block(config, prefix: str) -> dict:
    return {name.removeprefix(f"{prefix}_"): v for name, v in config.items() if name.startswith(f"{prefix}_")}


def part_ns(config, rows: int, warps: int, ahead: int) -> float:
    """A bowl whose lowest point is at the given places in the lists of values."""
    away = abs(ROWS.index(config["rows"]) - rows), abs(WARPS.index(config["warps"]) - warps)
    return 1000.0 * (1 + 0.2 * away[0] + 0.1 * away[1] + 0.05 * abs(AHEAD.index(config["ahead"]) - ahead))


def time_ns(problem: Problem, config) -> float:
    if isinstance(problem, Layer):  # in a chain fewer rows and more loads in flight pay; a long context wants warps
        where = {q: (1, 2 + (q == "attention" and problem.context > 300), 2) for q in problem.parts()}
        return sum(part_ns(block(config, q), *where[q]) for q in where) + 500.0 * (config["finish"] == "here")
    return part_ns(config, 0, 2, 0) if problem.kind == "untuned" else part_ns(config, 2, 1, 0)


def _work(problem: Problem):
    from kernel_templates.operation import Work

    return Work(1_000_000, 1_000_000)


def operation(problem: type[Problem]):
    """The stand-in's Operation; only its cost and tolerance are ever asked for."""
    from kernel_templates.operation import Operation  # a worker starts faster without

    def none(*_):
        raise AssertionError("the stand-in needs none")

    return Operation(problem.op, problem, none, none, _work, lambda _: TOLERANCE)


def target(device: Device = DEVICE, compilers: int = 2):
    """The stand-in's TuneTarget."""
    from autotune.tuning.target import TuneTarget

    return TuneTarget(
        "cuda:0", "sm90", device, space, _work, compilers, separate_measurer=True, compile_s=5.0, measure_s=5.0,
        program=PROGRAM, identity=f"fake of process {os.getpid()}",
    )  # fmt: skip


def install(monkeypatch) -> None:
    """Make the registry know the stand-ins."""
    from kernel_templates import registry

    for problem in (Part, Wide, Layer):
        monkeypatch.setitem(registry.OPERATIONS, problem.op, operation(problem))


class FakeGpu(protocol.Backend):
    """The worker's side. Seconds: FAKE_SLOW that a measurement takes, FAKE_COMPILE on average a kernel that was not
    compiled yet, FAKE_OPEN generating a problem's inputs. FAKE_LOG: a file that every request goes to; FAKE_NOISE: the
    spread of times; FAKE_BROKEN: a kind of part that never works."""

    def __init__(self, device: str):
        assert device in ("cuda:0", "sm90")
        self.problem: Problem | None = None
        self.key = ("", 0)

    def compile(self, request: protocol.Compile) -> protocol.Reply:
        key, config = request.problem, request.config
        part, parts = request.share
        if part == 0:
            self._log("compile", config)
        if self._parse(key, config, 1):
            return protocol.FailedToCompile("PTXASError: too many rows")
        start = time.monotonic()
        known = set() if request.base is None else set(self._kernels(key, request.base))
        for kernel in self._kernels(key, config)[part::parts]:
            if kernel not in known and not (cached := self._cache() / f"{zlib.crc32(kernel.encode())}").exists():
                time.sleep(_seconds("FAKE_COMPILE") * (0.4 + 3 * random.random() ** 4))
                cached.touch()
        spent = time.monotonic() - start
        return protocol.Compiled(spent, (_facts(config),) if "FAKE_FACTS" in os.environ else ())

    def _kernels(self, key: str, config: Config) -> list[str]:
        """What is compiled apart: each part of a layer, "finish" with the attention."""
        layer = key.startswith(Layer.op)
        names = sorted({name.partition("_")[0] for name in config} - {"finish"}) if layer else [""]
        parts = {name: block(config, name) if layer else dict(config) for name in names}
        return [
            f"{'' if layer and n != 'attention' else (key, config.get('finish'))} {n} {sorted(part.items())}"
            for n, part in parts.items()
        ]

    def _cache(self) -> Path:
        """As Triton's on disk, but a run's own."""
        path = Path(os.environ.get("FAKE_CACHE", tempfile.gettempdir())) / f"fake-gpu-{os.getppid()}"
        path.mkdir(exist_ok=True)
        return path

    def generate_inputs(self, request: protocol.GenerateInputs) -> protocol.Reply:
        time.sleep(_seconds("FAKE_OPEN"))
        Path(request.path).write_text(request.problem)
        return protocol.InputsGenerated()

    def open(self, request: protocol.Open) -> protocol.Reply:
        assert request.units == DEVICE.units
        op, _, fields = request.problem.partition(":")
        if self.key != (request.problem, request.seed):
            self.key = (request.problem, request.seed)
            if request.inputs is None or not Path(request.inputs).exists():
                time.sleep(_seconds("FAKE_OPEN"))
        self.problem = {Part.op: Part, Wide.op: Wide, Layer.op: Layer}[op].parse(fields)
        return protocol.Opened(TOLERANCE)

    def measure(self, request: protocol.Measure) -> protocol.Reply:
        self._log("measure", request.config)
        moment = _noise()  # other work comes and goes more slowly than samples
        times = [self._sample(request.config) * moment for _ in range(request.samples)]
        return self._run(request.config) or protocol.Measured(summarize(times), 0.001)

    def compare_pair(self, request: protocol.ComparePair) -> protocol.Reply:
        self._log(f"pair {request.verify}", request.config)
        failed = self._run(request.config)
        if failed and (request.verify or not isinstance(failed, protocol.Wrong)):
            return failed
        mine, theirs = (lambda c=c: self._sample(c) * _noise() for c in (request.config, request.incumbent))
        ours, best = compare_pair(mine, theirs, request.rounds)
        return protocol.PairCompared(summarize(ours), summarize(best), 0.001 if request.verify else None)

    def compare_finalists(self, request: protocol.CompareFinalists) -> protocol.Reply:
        if any(self._run(c) for c in request.configs):
            return protocol.Failed("WrongResult")
        moments = [_noise() for _ in range(request.rounds)]
        samples = tuple(tuple(self._sample(c) * noise for noise in moments) for c in request.configs)
        again = tuple(self._sample(request.configs[0]) * noise for noise in moments)
        measured = tuple(map(summarize, samples))
        return protocol.FinalistsCompared(measured, (0.001,) * len(measured), 3e12, samples, again)

    def _sample(self, config: Config) -> float:
        return time_ns(self.problem, config) * _noise()

    def _parse(self, key: str, config: Config, warps: int) -> bool:
        """Whether "qkv" fails in the way that 16 rows and so many warps do."""
        prefix = "" if key.startswith(Part.op) else "qkv_"
        mine = prefix or "kind=qkv" in key
        fatal = warps < 4 or config[f"{prefix}ahead"] == 1
        return bool(mine) and config[f"{prefix}rows"] == 16 and config[f"{prefix}warps"] == warps and fatal

    def _run(self, config: Config) -> protocol.Reply | None:
        time.sleep(_seconds("FAKE_SLOW"))
        key = self.problem.key
        if self._parse(key, config, 4):
            return protocol.Poisoned("CUDA error: an illegal memory access was encountered")
        if self._parse(key, config, 8):
            os._exit(3)
        if f"kind={os.environ.get('FAKE_BROKEN')}," in f"{key},":
            return protocol.Wrong("relative error 2 is above the tolerance 0.01", 2.0)
        together = os.environ.get("FAKE_TOGETHER_WRONG") and key.startswith(Layer.op)
        if self._parse(key, config, 2) or (together and config["qkv_rows"] == config["out_rows"] == 2):
            return protocol.Wrong("relative error 1 is above the tolerance 0.01", 1.0)
        return None

    def _log(self, name: str, config: Config) -> None:
        if "FAKE_LOG" in os.environ:
            with open(os.environ["FAKE_LOG"], "a") as log:
                log.write(f"{name} {Config(config).key}\n")


def _facts(config: Config):
    """With FAKE_FACTS: "ahead" changes nothing in the machine code, and 16 rows are thousands of instructions."""
    from autotune.screening.binary import KernelResources
    from autotune.screening.machine_code import Code

    size = 8000 if config["rows"] == 16 else 400
    code = Code(size, {"integer": size}, 16, 2, 100, size, size, size, False)
    return KernelResources("k", f"{config['rows']} {config['warps']}", 132, 128, 0, 64, 0, code)


def _noise() -> float:
    """What other work makes of a time: with FAKE_NOISE mostly a little, sometimes several times as much."""
    spread = _seconds("FAKE_NOISE")
    return (
        math.exp(random.gauss(0.0, spread)) * (1 + 4 * random.random() * (random.random() < spread)) if spread else 1.0
    )


def _seconds(name: str) -> float:
    return float(os.environ.get(name, "0"))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), FakeGpu)
