"""A GPU that is not there, for `scripts/bench_matmul`: made-up times of products, as compilers and as the measurer.

What has one tile and 4 warps does not compile, two tiles are wrong, two steps ahead of `wide` end the process.
Otherwise fewer warps are faster, `thin` before `wide` before the library among the algorithms, the library alone the
slowest.
"""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from autotune.runner import protocol
from autotune.runner.timing import summarize
from autotune.runner.worker import serve
from kernel_templates.space import Config

COMMAND = (sys.executable, str(Path(__file__).resolve()))
LIBRARY_NS = 9000.0
REFUSED = "Q5_1"  # a format of which nothing compiles


def time_ns(config: Config) -> float:
    first = {"thin": 1000.0, "wide": 2000.0, "library": 3000.0}
    return first[str(config.get("algorithm", "thin"))] + config["warps"]


class StandIn(protocol.Backend):
    def __init__(self, target: str) -> None:
        assert target in ("cuda:0", "sm90")

    def compile(self, request: protocol.Compile) -> protocol.Compiled:
        c = request.config
        if f"format={REFUSED}" in request.problem:
            raise RuntimeError("PTXASError: this format")
        if c.get("tiles") == 1 and c["warps"] == 4 and c["algorithm"] != "library":
            raise RuntimeError("PTXASError: one tile")
        return protocol.Compiled(0.1)

    def generate_inputs(self, request: protocol.GenerateInputs) -> protocol.InputsGenerated:
        Path(request.path).write_text(request.problem)
        return protocol.InputsGenerated()

    def open(self, request: protocol.Open) -> protocol.Opened:
        assert request.inputs is not None and Path(request.inputs).read_text() == request.problem
        return protocol.Opened(0.01)

    def measure(self, request: protocol.Measure) -> protocol.Measured | protocol.Wrong:
        if request.config.get("tiles") == 2:
            return protocol.Wrong("relative error 0.5", 0.5)
        if request.config.get("algorithm") == "wide" and request.config["ahead"] == 2:
            os._exit(1)
        return protocol.Measured(summarize([time_ns(request.config)]), 0.001)

    def compare_finalists(self, request: protocol.CompareFinalists) -> protocol.FinalistsCompared:
        times = [*map(time_ns, request.configs), LIBRARY_NS]
        samples = tuple((ns,) * request.rounds for ns in times)
        measured = tuple(summarize(each) for each in samples)
        return protocol.FinalistsCompared(measured, (0.001,) * len(times), 4e12, samples, samples[0])


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), StandIn, sys.argv[2] if len(sys.argv) > 2 else "")
