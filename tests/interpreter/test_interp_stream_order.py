"""When tokens are started and when they are read: a device and a host with a clock in place of both."""

from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch

from model.cuda.decode import AHEAD, Decoder
from model.sampling import Sampler

STEP, START = 10.0, 4.0
"""What a token takes the device, and its start the host."""


class Timed:
    """What `Decoder.stream` uses of an executor. now: the host's clock; the device runs one token after another."""

    def __init__(self) -> None:
        self.now = self.free = 0.0
        self.ends: deque[float] = deque()
        self.at_once: list[int] = []
        """Tokens that were started and not read, whenever one is read."""

    def here(self) -> Any:
        return nullcontext()

    def readback(self, width: int, slots: int) -> "Timed":
        return self

    def program(self, parts: tuple[str, ...], position: int) -> Any:
        return lambda: None

    def send(self, *values: torch.Tensor) -> None:
        self.now += START
        self.free = max(self.free, self.now) + STEP
        self.ends.append(self.free)

    def arrived(self) -> bool:
        return self.ends[0] <= self.now

    def receive(self) -> list[int]:
        self.at_once.append(len(self.ends))
        self.now = max(self.now, self.ends.popleft())
        return [7, 0]


def streamed(device: Timed, count: int) -> Any:
    decoder = cast("Any", Decoder.__new__(Decoder))
    decoder.buffers = {"history": torch.zeros(200, dtype=torch.int32), "status": torch.zeros(1, dtype=torch.int32)}
    decoder.executor, decoder.model, decoder.checkpoint = device, SimpleNamespace(on_host=False), None
    decoder.program = device.program
    return decoder.stream(0, count, Sampler())


def test_a_token_is_read_when_it_comes_and_the_device_has_work_from_then_on() -> None:
    device = Timed()
    times = [device.now for _ in streamed(device, 60)]
    assert times[0] <= START + STEP + START, "not once all that may be ahead are started"
    assert times[-1] - times[0] <= 59 * STEP + START
    assert max(device.at_once) == AHEAD


def test_a_reader_that_takes_long_finds_the_device_at_work() -> None:
    """After each token that is read one is started, though others have come."""
    device = Timed()
    stream = streamed(device, 100)
    for _ in range(30):
        next(stream)
    for _ in range(5):
        device.now += 6 * STEP  # in which six come, of the eight that were started
        idle = max(device.now - device.free, 0.0)
        for _ in range(12):
            next(stream)
            assert device.ends[-1] > device.now, "nothing is on its way"
        assert idle == 0.0
