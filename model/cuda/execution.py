"""How launches run: captured in CUDA graphs on a GPU, or one by one where there is none (tests, in the interpreter).

The one place of the engine that knows both. What it hands out behaves alike: a program is started by a call and returns
at once, and a readback brings what a program left to the host later.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from kernel_templates.cuda import ahead, driver
from kernel_templates.cuda.graph import Graph
from kernel_templates.cuda.launch import Launch, Target

Program = Callable[[], None]


@dataclass(frozen=True)
class Cut:
    """What is done between kernels of a program and no graph holds: a copy, work of the processor. `work` may wait for
    the device, and starts what it asks of it on the current stream."""

    name: str
    work: Callable[[], None]

    def run(self, target: Target) -> None:
        self.work()


class TokenReadback(Protocol):
    """Brings small tensors from the device in the order they were sent."""

    def send(self, *values: Tensor) -> None:
        """Take the elements of int32 tensors, as the work started so far leaves them. They may change only after that
        work is done and copied, which `receive` says."""

    def arrived(self) -> bool:
        """Whether `receive` would not wait."""

    def receive(self) -> list[int]:
        """What was sent first and not yet received; waits for it."""


class Executor(Protocol):
    device: torch.device
    target: Target

    def here(self) -> AbstractContextManager:
        """Inside, this device is the current one."""

    def program(self, launches: Sequence[Launch | Cut], name: str = "token") -> Program:
        """The launches as one thing that can be started again and again; name: of one run, for a profiler."""

    def compile(self, launches: Sequence[Launch]) -> Callable[[], bool]:
        """Begin to compile kernels that were not yet, beside what goes on; what says whether `program` has to wait for
        none of them any more."""

    def span(self, name: str) -> AbstractContextManager:
        """What is started inside belongs together under this name, for a profiler that was asked to watch."""

    def readback(self, width: int, slots: int) -> TokenReadback:
        """For at most `width` values a time, at most `slots` times sent and not received."""

    def shared(self, *shape: int) -> Tensor:
        """int32 zeros in memory of the host, which kernels read and write too."""

    def run_until(self, program: Program, came: Callable[[], bool]) -> None:
        """Start a program and wait for it to make this true; at most for its end. Raises what made it fail."""


class GraphExecutor:
    """A CUDA GPU: every program is a graph, or one for each stretch between its cuts."""

    def __init__(self, index: int, target: Target):
        self.device, self.target = torch.device("cuda", index), target
        self._captures: torch.cuda.Stream | None = None

    def here(self) -> AbstractContextManager:
        return torch.cuda.device(self.device)

    def program(self, launches: Sequence[Launch | Cut], name: str = "token") -> Program:
        if self._captures is None:
            self._captures = torch.cuda.Stream(self.device)
        made: list[Program] = []
        stretch: list[Launch] = []
        for launch in launches:
            if isinstance(launch, Cut):
                made += [*self._captured(stretch), launch.work]
                stretch = []
            else:
                stretch.append(launch)
        made += self._captured(stretch)
        if len(made) == 1:
            return made[0]

        def run() -> None:
            for part in made:
                part()

        return run

    def _captured(self, launches: Sequence[Launch]) -> list[Program]:
        """None of no launches."""
        return [Graph(launches, self.target, self.device, self._captures).replay] if launches else []

    def compile(self, launches: Sequence[Launch]) -> Callable[[], bool]:
        kernels = [launch for launch in launches if isinstance(launch, Launch)]  # beside calls of the library
        files = ahead.start(kernels, self.target, driver.context().capability)
        return partial(ahead.done, files)

    def span(self, name: str) -> AbstractContextManager:
        return nullcontext()

    def readback(self, width: int, slots: int) -> TokenReadback:
        return _SideStream(width, slots, self.device)

    def shared(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, pin_memory=True)

    def run_until(self, program: Program, came: Callable[[], bool]) -> None:
        """Looks again and again: what a kernel writes over the bus is there before the stream is seen to have ended."""
        try:
            program()
            ended = torch.cuda.current_stream(self.device).query
            while not came() and not ended():
                pass
        except BaseException:  # an interrupt: what still runs would write into what is waited for next
            torch.cuda.synchronize(self.device)
            raise


class NvtxExecutor(GraphExecutor):
    """A CUDA GPU whose kernels are launched one by one, each in an NVTX range of its operation's name: a profiler shows
    the kernels of a graph under the graph alone. So tokens are slower, by what launching costs."""

    def program(self, launches: Sequence[Launch | Cut], name: str = "token") -> Program:
        def run() -> None:
            with self.span(name):
                for launch in launches:
                    with self.span(launch.name):
                        launch.run(self.target)

        return run

    def span(self, name: str) -> AbstractContextManager:
        return torch.cuda.nvtx.range(name)


class EagerExecutor:
    """CPU tensors and Triton's interpreter: programs run when they are started, launch by launch."""

    def __init__(self, target: Target):
        self.device, self.target = torch.device("cpu"), target

    def here(self) -> AbstractContextManager:
        return nullcontext()

    def program(self, launches: Sequence[Launch | Cut], name: str = "token") -> Program:
        def run() -> None:
            for launch in launches:
                launch.run(self.target)

        return run

    def compile(self, launches: Sequence[Launch]) -> Callable[[], bool]:
        return lambda: True

    def span(self, name: str) -> AbstractContextManager:
        return nullcontext()

    def readback(self, width: int, slots: int) -> TokenReadback:
        return _Immediate()

    def shared(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    def run_until(self, program: Program, came: Callable[[], bool]) -> None:
        program()


@dataclass
class _Immediate:
    """What is sent is there."""

    def __post_init__(self) -> None:
        self._waiting: deque[list[int]] = deque()

    def send(self, *values: Tensor) -> None:
        self._waiting.append([number for value in values for number in value.reshape(-1).tolist()])

    def arrived(self) -> bool:
        return True

    def receive(self) -> list[int]:
        return self._waiting.popleft()


class _SideStream:
    """Copies into pinned memory on a stream of their own, so that graph follows graph without a gap."""

    def __init__(self, width: int, slots: int, device: torch.device):
        self._host = torch.zeros((slots, width), dtype=torch.int32, pin_memory=True)
        self._stream = torch.cuda.Stream(device)
        self._waiting: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._sent = 0

    def send(self, *values: Tensor) -> None:
        host, filled = self._host[self._sent % len(self._host)], 0
        self._sent += 1
        computed, copied = torch.cuda.Event(), torch.cuda.Event()
        computed.record()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(computed)
            for value in values:
                host[filled : filled + value.numel()].copy_(value.reshape(-1), non_blocking=True)
                filled += value.numel()
            copied.record()
        self._waiting.append((host[:filled], copied))

    def arrived(self) -> bool:
        return self._waiting[0][1].query()

    def receive(self) -> list[int]:
        host, copied = self._waiting.popleft()
        copied.synchronize()
        return host.tolist()
