"""Which winner answers for a problem on a device. Pure: it ranks rows that somebody else has read.

The order is the one of `records.Source`. A winner measured on another chip is never an answer, only part of the
explanation of a default. A borrowed configuration (nearest shape) was legal for another problem: whoever launches it
checks it against the space of its own problem first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kernel_templates.device import Device
from tuning_db import keys, rows
from tuning_db.records import Lookup, Source
from tuning_db.rows import Row


@dataclass(frozen=True)
class Pick:
    """The row that answers, before anybody has decoded it."""

    source: Source
    row: Row
    detail: str


def same_problem(device: Device, template_version: int, same: Sequence[Row]) -> Pick | None:
    """The answer among this chip's current winners of the very problem."""
    usable = [row for row in same if row["template_version"] == template_version]
    for row in usable:
        if row["fingerprint"] == device.fingerprint:
            return Pick(Source.EXACT, row, _origin(row))
    if not usable:
        return None
    # The newest is the one whose driver and compiler are most likely closest to today's.
    row = max(usable, key=lambda row: (row["created_at"], row["id"]))
    return Pick(Source.SAME_CHIP, row, f"{_origin(row)}; {_device_difference(device, rows.device_from(row))}")


def nearest_shape(device: Device, problem: str, template_version: int, here: Sequence[Row]) -> Pick | None:
    """The answer among this chip's current winners of other problems; see `keys.distance` for what is near."""
    wanted = keys.parse(problem)
    ranked = []
    for row in here:
        away = keys.distance(wanted, keys.parse(row["problem"]))
        if away is not None and row["template_version"] == template_version:
            # Equal distances: this very device first, then the alphabet, so that the answer is always the same.
            ranked.append((away, row["fingerprint"] != device.fingerprint, row["problem"], -row["id"], row))
    if not ranked:
        return None
    away, *_, row = min(ranked, key=lambda entry: entry[:4])
    difference = keys.differences(wanted, keys.parse(row["problem"]))
    detail = f"{row['problem']}, {away:.2f} doublings away ({difference}); {_origin(row)}"
    return Pick(Source.NEAREST_SHAPE, row, detail)


def explain_default(
    device: Device, problem: str, template_version: int, here: Sequence[Row], elsewhere: Sequence[Row]
) -> Lookup:
    """The answer when there is none: no winner, and in words the nearest entry and what differs from it.

    `here`: current winners of this chip; `elsewhere`: current winners of this very problem on other chips.
    """
    for row in here:
        if row["problem"] == problem:
            detail = f"tuned for template version {row['template_version']}, this is version {template_version}"
            return Lookup(Source.DEFAULT, None, detail)
    for row in elsewhere:
        return Lookup(Source.DEFAULT, None, f"tuned only on another chip: {_chip_difference(device, row)}")
    wanted = keys.parse(problem)
    related = [(keys.differences(wanted, keys.parse(row["problem"])), row["problem"]) for row in here]
    related = [(text, key) for text, key in related if keys.parse(key).op == wanted.op]
    if related:
        text, key = min(related, key=lambda pair: (pair[0].count("→"), pair[1]))
        return Lookup(Source.DEFAULT, None, f"nearest on this chip is {key}: {text}")
    return Lookup(Source.DEFAULT, None, f"nothing tuned for {wanted.op} on this chip")


def _origin(row: Row) -> str:
    run = "no run" if row["run_id"] is None else f"run {row['run_id']}"
    return f"{run}, {str(row['created_at'])[:10]}"


def _device_difference(wanted: Device, found: Device) -> str:
    parts = []
    if wanted.memory_bytes != found.memory_bytes:
        parts.append(f"memory {found.memory_bytes / 1e9:.1f} → {wanted.memory_bytes / 1e9:.1f} GB")
    have, want = dict(found.versions), dict(wanted.versions)
    for name in sorted(have | want):
        if have.get(name) != want.get(name):
            parts.append(f"{name} {have.get(name, 'absent')} → {want.get(name, 'absent')}")
    return ", ".join(parts) or "same versions in another order"


def _chip_difference(wanted: Device, row: Row) -> str:
    pairs = ((name, row[name], getattr(wanted, name)) for name in ("backend", "chip", "capability", "units"))
    return ", ".join(f"{name} {found} → {here}" for name, found, here in pairs if found != here)
