"""A device's measured roofs, remembered in the database."""

from kernel_templates.device import Device
from tuning_db import TuningDB


def known_or_measured(db: TuningDB, device: Device, force: bool = False, index: int = 0) -> dict[str, float]:
    """read_gb_s and copy_gb_s, on a cpu int8_gop_s and f32_gflop_s too, and measured_at (Unix seconds); measured if
    unknown or forced. index: which GPU `device` is."""
    known = None if force else db.ceilings(device)
    if known is None:
        db.remember_device(device)
        db.set_ceilings(device, _measure(device, index))
        known = db.ceilings(device)
    assert known is not None
    return known


def _measure(device: Device, index: int) -> dict[str, float]:
    if device.backend == "cpu":
        from autotune.runner import bandwidth

        return bandwidth.ceilings(device.units)
    from autotune.runner import cuda_bandwidth

    return cuda_bandwidth.ceilings(index)
