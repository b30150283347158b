"""Peaks from vendors' data sheets, by the driver's name for a chip."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Datasheet:
    """memory_gb_s: of the memory; f32_gflop_s: 32-bit float outside of tensor cores; source: the document."""

    memory_gb_s: float
    f32_gflop_s: float
    source: str


_CHIPS = {
    "NVIDIA H100 80GB HBM3": Datasheet(3350, 67_000, "NVIDIA H100 Tensor Core GPU data sheet, H100 SXM"),
    "NVIDIA H100 PCIe": Datasheet(2000, 51_000, "NVIDIA H100 Tensor Core GPU data sheet, H100 PCIe"),
    "NVIDIA H200": Datasheet(4800, 67_000, "NVIDIA H200 Tensor Core GPU data sheet, H200 SXM"),
    "NVIDIA A100-SXM4-80GB": Datasheet(2039, 19_500, "NVIDIA A100 Tensor Core GPU data sheet, A100 80GB SXM"),
    "NVIDIA A100 80GB PCIe": Datasheet(1935, 19_500, "NVIDIA A100 Tensor Core GPU data sheet, A100 80GB PCIe"),
}


def datasheet(chip: str) -> Datasheet | None:
    """The data sheet of a chip, by the driver's name for it; None for a chip that is not listed."""
    return _CHIPS.get(chip)
