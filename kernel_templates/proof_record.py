"""Remembers what came of proving a configuration on this device with this software, in a file beside the compiled
kernels: models are loaded from databases that are only read, and a verdict of one machine is nobody else's."""

import contextlib
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kernel_templates import cache_folder, registry, sources
from kernel_templates.device import Device
from kernel_templates.problem import Problem
from kernel_templates.space import Config

RIGHT = "right"


@dataclass(frozen=True)
class Verdict:
    """wrong: why the configuration must not be used, in one line, None for one that computes right; when: in UTC."""

    wrong: str | None
    when: datetime


def known(problem: Problem, config: Config, device: Device) -> Verdict | None:
    """None if it was not proved here yet."""
    file = path(problem, config, device)
    with contextlib.suppress(OSError):
        if text := file.read_text(encoding="utf-8"):
            when = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            return Verdict(None if text == RIGHT else text, when)
    return None


def remember(problem: Problem, config: Config, device: Device, wrong: str | None) -> None:
    """Where that cannot be written, it is proved again the next time."""
    cache_folder.write(path(problem, config, device), (wrong or RIGHT).encode())


def path(problem: Problem, config: Config, device: Device) -> Path:
    """Where the verdict is kept; its name holds everything that it depends on."""
    software = (device.fingerprint, sources.digest(), problem.template_version)
    limit = registry.get(problem.op).tolerance_on(device.backend, problem)
    about = repr((problem.key, config.key, limit, *software))
    return cache_folder.path() / "proofs" / hashlib.sha256(about.encode()).hexdigest()[:32]
