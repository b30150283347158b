"""One side of a comparison as a long-lived process that computes only when asked."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

HERE = Path(__file__).resolve().parent


class WorkerError(RuntimeError):
    """A worker failed; the message is one line."""


class Child:
    """A worker script under some Python, spoken to through `ask`."""

    def __init__(self, python: str | Path, script: str, environment: Mapping[str, str] | None = None) -> None:
        """environment: variables of the worker beside ours."""
        self.script = script
        command = [str(python), str(HERE / script)]
        variables = {**os.environ, **(environment or {}), "PYTHONSAFEPATH": "1"}  # the peer's Python may not know -P
        known = filter(None, [variables.get("PYTHONPATH")])
        variables["PYTHONPATH"] = os.pathsep.join([str(HERE), *known, str(HERE.parents[1])])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self._usage = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()  # the worker's loop ends with its input
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request. Raises WorkerError when the worker reports a failure or is gone."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.script} ended during '{op}' (exit status {self._process.wait()}); see above")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.script} could not '{op}': {answer['error']}")
        return answer

    def cpu_seconds(self) -> float:
        """Processor time of the worker so far, all its threads: an idle one must not use any."""
        times = self._usage.cpu_times()
        return times.user + times.system
