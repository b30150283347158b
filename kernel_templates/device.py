"""What a kernel is compiled for and tuned on: one frozen description with a stable fingerprint.

Detection lives with the backends (`kernel_templates.cpu.machine`); this file only says what a device *is*.
"""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Device:
    """A chip as far as the speed of a kernel depends on it.

    units: cores used (cpu) or streaming multiprocessors (cuda); memory_bytes: the memory the kernels read from;
    capability: instruction-set tag (cpu, e.g. "avx512-vnni") or compute capability (cuda, e.g. "9.0");
    versions: sorted (name, version) pairs of the driver and compilers that turn a template into machine code.
    """

    backend: str
    chip: str
    capability: str
    units: int
    memory_bytes: int
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """For tables and pages: one processor with one and with two threads is two devices."""
        if self.backend != "cpu" or self.units < 1:
            return self.chip
        return f"{self.chip}, {self.units} thread{'s' * (self.units != 1)}"

    @property
    def chip_key(self) -> str:
        """The hardware alone: two devices with one chip_key differ at most in memory and software."""
        return f"{self.backend}/{self.chip}/{self.capability}/{self.units}"

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over every field; a winner is exact only under the same fingerprint."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
