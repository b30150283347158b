"""A device's measured roofs, remembered in the database."""

from autotune.measure import bandwidth
from kernel_templates.device import Device
from tuning_db import TuningDB


def known_or_measured(db: TuningDB, device: Device, force: bool = False) -> dict[str, float]:
    """read_gb_s, copy_gb_s, int8_gop_s, f32_gflop_s and measured_at (Unix seconds); measured if unknown or forced."""
    known = None if force else db.ceilings(device)
    if known is None:
        db.remember_device(device)
        db.set_ceilings(device, bandwidth.ceilings(device.units))
        known = db.ceilings(device)
    assert known is not None
    return known
