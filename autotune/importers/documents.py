"""Writing documents, and the space that a stored run searched."""

import gzip
import os
from pathlib import Path

from autotune import UserError
from kernel_templates import registry
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Space


def write(path: Path, text: str) -> None:
    """Replace a file in one step, gzipped (the same bytes every time) if its name ends in .gz. Raises UserError."""
    data = text.encode()
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another file") from None


def space_of(problem: Problem, device: Device) -> Space:
    """As the device's backend has it; a processor's instructions are in its capability."""
    if device.backend == "cuda":
        return registry.cuda_space(problem, device)
    return registry.get(problem.op).cpu_space(problem, frozenset(device.capability.split("-")))
