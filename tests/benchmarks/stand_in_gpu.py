"""A GPU that is not there, for the scripts that measure spaces: made-up machine code and times of real problems.

Run as a program with a pipe's number it speaks the protocol of `autotune.runner.worker`. What has 16 warps does not
compile, one row a thread and 8 warps is wrong, and 8 rows a thread are the same code as 4.
"""

import struct
import sys
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.runner.verify import summarize
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


class StandIn:
    def __init__(self, device: str):
        assert device in ("cuda:0", "sm90")

    def inspect(self, problem: str, config: dict) -> tuple:
        if value(config, "warps") == 16:
            raise RuntimeError("PTXASError: too many warps")
        same = {**config, **{n: min(v, 4) for n, v in config.items() if n.endswith("each")}}
        adds = struct.pack("<IIQ", 0x210, zlib.crc32(Config(same).key.encode()), 0x7E1 << 41) * 40 * same_size(config)
        return ("compiled", 0.1, [Binary("k", 100, 32 * value(config, "warps"), 0, (), 64, 0, adds)])

    def compile(self, problem: str, config: dict, base: dict | None = None, share: tuple = (0, 1)) -> tuple:
        said, seconds, binaries = self.inspect(problem, config)
        return (said, seconds, [binary.resources for binary in binaries])

    def draw(self, problem: str, seed: int, path: str) -> tuple:
        Path(path).write_text(problem)
        return ("drawn", 0.0)

    def open(self, problem: str, seed: int, units: int, drawn: str | None = None) -> tuple:
        return ("opened", TOLERANCE)

    def measure(self, config: dict, samples: int) -> tuple:
        if value(config, "each") == 1 and value(config, "warps") == 8:
            return ("wrong", "relative error 1 is above the tolerance 0.01", 1.0)
        return ("ok", summarize([time_ns(config)] * samples), 0.001)

    def rematch(self, configs: list[dict], rounds: int) -> tuple:
        return ("rematch", [summarize([time_ns(c)] * rounds) for c in configs], [0.001] * len(configs), 3e12)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), StandIn)
