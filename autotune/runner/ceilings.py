"""A device's measured roofs, remembered in the database: the best that any measurement saw."""

from collections.abc import Mapping

from kernel_templates.device import Device
from tuning_db import TuningDB


def settled(known: Mapping[str, float] | None) -> bool:
    """Whether these roofs are known and were not measured beside a busy neighbour."""
    return known is not None and "busy" not in known


def known_or_measured(db: TuningDB, device: Device, force: bool = False, index: int = 0) -> dict[str, float]:
    """read_gb_s and copy_gb_s, on a cpu int8_gop_s and f32_gflop_s too, and measured_at (Unix seconds); measured if
    unknown, forced, or marked as `busy` (see `bandwidth.ceilings`). A lower measurement does not replace a higher one.
    index: which GPU `device` is."""
    known = db.ceilings(device)
    if force or not settled(known):
        from autotune.runner.bandwidth import better

        measured = _measure(device, index)
        if known is not None:
            stored = {name: value for name, value in known.items() if name != "measured_at"}
            measured = better(stored, measured)
        db.remember_device(device)
        db.set_ceilings(device, measured)
        known = db.ceilings(device)
    assert known is not None
    return known


def _measure(device: Device, index: int) -> dict[str, float]:
    if device.backend == "cpu":
        from autotune.runner import bandwidth

        return bandwidth.ceilings(device.units)
    from autotune.runner import cuda_bandwidth

    return cuda_bandwidth.ceilings(index)
