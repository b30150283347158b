"""What is known of GPUs that are not here: for each compute capability its best-known chip, from the vendor's data
sheets. A device that was measured brings its own multiprocessors and bandwidth."""

from dataclasses import dataclass, replace

from autotune.screening.datasheets import datasheet
from kernel_templates.device import Device


@dataclass(frozen=True)
class Chip:
    """clock: GHz that the multiprocessors reach; bandwidth: GB/s of its memory."""

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    memory: int = 16 << 30

    @property
    def device(self) -> Device:
        """As a space asks for it."""
        return Device(
            "cuda", self.name, f"{self.capability // 10}.{self.capability % 10}", self.multiprocessors, self.memory
        )


CHIPS = {
    chip.capability: chip
    for chip in (
        Chip("Tesla V100 SXM2", 70, 80, 1.53, 900, 32 << 30),
        Chip("Tesla T4", 75, 40, 1.59, 320),
        Chip("A100 80GB SXM", 80, 108, 1.41, 2039, 80 << 30),
        Chip("GeForce RTX 3090", 86, 82, 1.70, 936, 24 << 30),
        Chip("Jetson AGX Orin 64GB", 87, 16, 1.30, 205, 64 << 30),
        Chip("GeForce RTX 4090", 89, 128, 2.52, 1008, 24 << 30),
        Chip("H100 80GB SXM", 90, 132, 1.98, 3350, 80 << 30),
        Chip("B200", 100, 148, 1.97, 8000, 180 << 30),
        Chip("GeForce RTX 5090", 120, 170, 2.41, 1792, 32 << 30),
    )
}


def chip(capability: int) -> Chip:
    """Raises ValueError for a compute capability, such as 90, of which no chip is known."""
    if capability not in CHIPS:
        raise ValueError(f"no chip of sm_{capability} is known; give one of {', '.join(f'sm_{c}' for c in CHIPS)}")
    return CHIPS[capability]


def of(device: Device, read_gb_s: float | None = None) -> Chip:
    """A GPU that is here, or was; its clock is that of its kind, and so is its bandwidth where neither a measurement
    nor a data sheet says more. Raises ValueError."""
    like, sheet = chip(int(device.capability.replace(".", ""))), datasheet(device.chip)
    bandwidth = read_gb_s or (sheet.memory_gb_s if sheet else like.bandwidth)
    return replace(
        like, name=device.chip, multiprocessors=device.units, bandwidth=bandwidth, memory=device.memory_bytes
    )  # fmt: skip
