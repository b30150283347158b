"""A GPU that is not there, for the scripts that measure spaces: made-up machine code and times of real problems.

Run as a program with a pipe's number it serves the requests of `autotune.runner.protocol`. What has 16 warps does not
compile, one row a thread and 8 warps is wrong, and 8 rows a thread are the same code as 4.
"""

import struct
import sys
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.runner import protocol
from autotune.runner.timing import summarize
from autotune.runner.worker import serve
from autotune.screening.binary import Binary
from kernel_templates.device import Device
from kernel_templates.space import Config

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
DEVICE = Device("cuda", "Fake 100", "9.0", 132, 80 << 30, (("driver", "1"), ("triton", "3")))
TOLERANCE = 0.01


def value(config, name: str) -> int:
    return next(v for n, v in config.items() if n.removeprefix("gate_up_") == name)


def time_ns(config) -> float:
    return 1000.0 * (1 + abs(value(config, "units") - 32) / 32 + abs(value(config, "warps") - 4) / 4) + value(
        config, "ahead"
    )


def same_size(config) -> int:
    """More rows a thread, more code; but for 8."""
    return min(value(config, "each"), 4)


class StandIn(protocol.Backend):
    def __init__(self, target: str):
        assert target in ("cuda:0", "sm90")

    def inspect(self, request: protocol.Inspect) -> protocol.Inspected:
        return protocol.Inspected(0.1, (self._binary(request.config),))

    def compile(self, request: protocol.Compile) -> protocol.Compiled:
        return protocol.Compiled(0.1, (self._binary(request.config).resources,))

    def _binary(self, config: Config) -> Binary:
        if value(config, "warps") == 16:
            raise RuntimeError("PTXASError: too many warps")
        same = {**config, **{n: min(v, 4) for n, v in config.items() if n.endswith("each")}}
        adds = struct.pack("<IIQ", 0x210, zlib.crc32(Config(same).key.encode()), 0x7E1 << 41) * 40 * same_size(config)
        return Binary("k", 100, 32 * value(config, "warps"), 0, (), 64, 0, adds)

    def generate_inputs(self, request: protocol.GenerateInputs) -> protocol.InputsGenerated:
        Path(request.path).write_text(request.problem)
        return protocol.InputsGenerated()

    def open(self, request: protocol.Open) -> protocol.Opened:
        return protocol.Opened(TOLERANCE)

    def measure(self, request: protocol.Measure) -> protocol.Reply:
        if value(request.config, "each") == 1 and value(request.config, "warps") == 8:
            return protocol.Wrong("relative error 1 is above the tolerance 0.01", 1.0)
        return protocol.Measured(summarize([time_ns(request.config)] * request.samples), 0.001)

    def compare_finalists(self, request: protocol.CompareFinalists) -> protocol.FinalistsCompared:
        samples = tuple((time_ns(c),) * request.rounds for c in request.configs)
        measured = tuple(map(summarize, samples))
        return protocol.FinalistsCompared(measured, (0.001,) * len(measured), 3e12, samples, samples[0])


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), StandIn)
