"""The messages between a tuning run and its worker processes: one class a request, one a kind of reply.

They travel pickled over a pipe (`autotune.runner.channel`). A worker answers every request with one reply, and sends
`Started` unasked before the first. `Compile`, `Inspect`, `GenerateInputs` and `Open` name the target that serves them;
the others go to the target of the request before.
"""

from dataclasses import dataclass

from autotune.screening.binary import Binary, KernelResources
from kernel_templates.space import Config
from tuning_db.records import Measurement


@dataclass(frozen=True)
class Request:
    """What a tuning run asks of a worker."""


@dataclass(frozen=True)
class TargetRequest(Request):
    """target: "cpu", "cuda:0", or "sm90" for what is done for a GPU of that capability without touching one; problem:
    its key."""

    target: str
    problem: str


@dataclass(frozen=True)
class Compile(TargetRequest):
    """Have a configuration's kernels in the compiler's cache. base: another configuration, compiled elsewhere, whose
    kernels may be left out; share: (which, of how many) parts of the kernels. Reply: `Compiled`."""

    config: Config
    base: Config | None = None
    share: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Inspect(TargetRequest):
    """Compile a configuration for its machine code. Reply: `Inspected`."""

    config: Config


@dataclass(frozen=True)
class GenerateInputs(TargetRequest):
    """Write a problem's random inputs and the reference's outputs to the file `path`. Reply: `InputsGenerated`."""

    seed: int
    path: str


@dataclass(frozen=True)
class Open(TargetRequest):
    """Select the problem that the following requests are about. units: threads of a processor's kernels; inputs: the
    file of a `GenerateInputs`, used if it is there. Reply: `Opened`."""

    seed: int
    units: int
    inputs: str | None = None


@dataclass(frozen=True)
class Measure(Request):
    """Verify and time one configuration. energy: count that, too. Reply: `Measured`, `Wrong` or `Impossible`."""

    config: Config
    samples: int
    energy: bool = False


@dataclass(frozen=True)
class ComparePair(Request):
    """Time a configuration in turn with the incumbent. verify: the outputs, before. Reply: `PairCompared`, `Wrong` or
    `Impossible`."""

    config: Config
    incumbent: Config
    rounds: int
    verify: bool
    energy: bool = False


@dataclass(frozen=True)
class CompareFinalists(Request):
    """Verify several configurations and time them in turn, `rounds` samples each, two of the first. Reply:
    `FinalistsCompared`."""

    configs: tuple[Config, ...]
    rounds: int
    energy: bool = False


@dataclass(frozen=True)
class Reply:
    """What a worker answers."""


@dataclass(frozen=True)
class Started(Reply):
    """The process `pid` is ready for requests."""

    pid: int


@dataclass(frozen=True)
class Compiled(Reply):
    """seconds: that it took; kernels: of each its resources, None for one that was left out; empty on a
    processor."""

    seconds: float
    kernels: tuple[KernelResources | None, ...] = ()


@dataclass(frozen=True)
class Inspected(Reply):
    """seconds: that compiling took; binaries: the kernels in the order of their launches."""

    seconds: float
    binaries: tuple[Binary, ...]


@dataclass(frozen=True)
class Opened(Reply):
    """tolerance: the largest relative error that counts as correct."""

    tolerance: float


class InputsGenerated(Reply):
    """The file is there."""


@dataclass(frozen=True)
class Measured(Reply):
    """error: ||out - ref|| / ||ref||; None if it was not verified."""

    measurement: Measurement
    error: float | None


@dataclass(frozen=True)
class PairCompared(Reply):
    """error: of the configuration; None if it was not verified."""

    measurement: Measurement
    incumbent: Measurement
    error: float | None


@dataclass(frozen=True)
class FinalistsCompared(Reply):
    """In the order of the request. read_bytes_s: bytes a second that the device's memory was read at meanwhile;
    samples: nanoseconds of each, round by round; again: of the first, its second sample of every round."""

    measurements: tuple[Measurement, ...]
    errors: tuple[float, ...]
    read_bytes_s: float
    samples: tuple[tuple[float, ...], ...]
    again: tuple[float, ...]


@dataclass(frozen=True)
class Failure(Reply):
    """What kept a worker from doing as it was asked; message: one line."""

    message: str


class Failed(Failure):
    """Something was raised."""


class FailedToCompile(Failure):
    """The compiler refused the configuration."""


@dataclass(frozen=True)
class Wrong(Failure):
    """The outputs are not the reference's; error: ||out - ref|| / ||ref||, infinite for NaN."""

    error: float


class Impossible(Failure):
    """A time that the device's memory does not allow."""


class Poisoned(Failure):
    """A kernel has broken CUDA for the worker's process, which ends with this reply."""


SERVED_BY: dict[type[Request], str] = {
    Compile: "compile",
    Inspect: "inspect",
    GenerateInputs: "generate_inputs",
    Open: "open",
    Measure: "measure",
    ComparePair: "compare_pair",
    CompareFinalists: "compare_finalists",
}
"""The method of a `Backend` that takes a request and gives the reply."""


class Backend:
    """What a worker does for one target; it has the methods of the requests that it serves."""

    def answer(self, request: Request) -> Reply:
        """Raises NotImplementedError for what it does not serve, else what compilers, candidates and devices raise."""
        method = getattr(self, SERVED_BY[type(request)], None)
        if method is None:
            raise NotImplementedError(f"{type(self).__name__} does not serve {type(request).__name__}")
        return method(request)
