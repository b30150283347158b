"""Chooses the winner that answers for a problem on a device. Pure: it ranks rows that were read before.

The order is the one of `records.Source`, and the answer always says which it was. A borrowed configuration (nearest
shape, nearest chip) was legal for another problem or chip: its user checks it against the space of its own
first. On a GPU the nearest chip has the same compute capability, or it is none: code for another one is other code.
"""

import math
from collections.abc import Iterable, Sequence
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
            return Pick(Source.EXACT, row, origin(row))
    if not usable:
        return None
    # The newest is the one whose driver and compiler are most likely closest to today's.
    row = max(usable, key=lambda row: (row["created_at"], row["id"]))
    return Pick(Source.SAME_CHIP, row, f"{origin(row)}; {device_difference(device, rows.device_from(row))}")


def shipped(device: Device, problem: str, template_version: int, of_chip: Iterable[Row]) -> Pick | None:
    """The answer among the winners that come with autotune for this chip."""
    for row in of_chip:
        if row["problem"] == problem and row["template_version"] == template_version:
            other = row["fingerprint"] != device.fingerprint
            detail = device_difference(device, rows.device_from(row)) if other else "same software"
            return Pick(Source.SHIPPED, row, f"{origin(row)}; {detail}")
    return None


def nearest_shape(device: Device, problem: str, template_version: int, here: Iterable[Row]) -> Pick | None:
    """The answer among this chip's winners of other problems; see `keys.distance` for what is near."""
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
    return Pick(Source.NEAREST_SHAPE, row, shape_detail(problem, row, away))


def shape_detail(problem: str, row: Row, away: float) -> str:
    difference = keys.differences(keys.parse(problem), keys.parse(row["problem"]))
    return f"{row['problem']}, {away:.2f} doublings away ({difference}); {origin(row)}"


def nearest_chip(device: Device, template_version: int, elsewhere: Iterable[Row]) -> Pick | None:
    """The answer among other chips' winners of the very problem: the same instructions, and the nearest size."""
    ranked = []
    for row in elsewhere:
        same_code = row["capability"] == device.capability
        if row["template_version"] == template_version and row["backend"] == device.backend:
            if device.backend == "cuda" and not same_code:
                continue
            away = abs(math.log2(row["units"] / device.units)) if row["units"] > 0 < device.units else math.inf
            ranked.append((not same_code, away, row["chip"], -row["id"], row))
    if not ranked:
        return None
    row = min(ranked, key=lambda entry: entry[:4])[-1]
    return Pick(Source.NEAREST_CHIP, row, f"measured on another chip: {chip_difference(device, row)}; {origin(row)}")


def explain_default(
    device: Device, problem: str, template_version: int, here: Sequence[Row], elsewhere: Sequence[Row]
) -> Lookup:
    """The answer when there is none: no winner, and in words the nearest entry and which part of its key differs.

    `here`: winners of this operation on this chip; `elsewhere`: winners of this very problem on other chips.
    """
    for row in here:
        if row["problem"] == problem:
            detail = f"tuned for template version {row['template_version']}, this is version {template_version}"
            return Lookup(Source.DEFAULT, None, detail)
    for row in elsewhere:
        parts = [chip_difference(device, row)]
        if row["template_version"] != template_version:
            parts.append(f"template version {row['template_version']} → {template_version}")
        return Lookup(Source.DEFAULT, None, f"tuned only on another chip: {', '.join(parts)}")
    wanted = keys.parse(problem)
    related = [(keys.differences(wanted, keys.parse(row["problem"])), row["problem"]) for row in here]
    related = [(text, key) for text, key in related if keys.parse(key).op == wanted.op]
    if related:
        text, key = min(related, key=lambda pair: (pair[0].count("→"), pair[1]))
        return Lookup(Source.DEFAULT, None, f"nearest on this chip is {key}: {text}")
    return Lookup(Source.DEFAULT, None, f"nothing tuned for {wanted.op} on this chip")


def origin(row: Row) -> str:
    run = "no run" if row["run_id"] is None else f"run {row['run_id']}"
    if row["run_id"] is None and row.get("run_uid"):
        run = f"run {row['run_uid'][:8]} elsewhere"
    return f"{run}, {str(row['created_at'])[:10]}"


def device_difference(wanted: Device, found: Device) -> str:
    """Memory and versions that differ, found → wanted."""
    parts = []
    if wanted.memory_bytes != found.memory_bytes:
        parts.append(f"memory {found.memory_bytes / 1e9:.1f} → {wanted.memory_bytes / 1e9:.1f} GB")
    have, want = dict(found.versions), dict(wanted.versions)
    for name in sorted(have | want):
        if have.get(name) != want.get(name):
            parts.append(f"{name} {have.get(name, 'absent')} → {want.get(name, 'absent')}")
    return ", ".join(parts) or "same versions in another order"


def chip_difference(wanted: Device, row: Row) -> str:
    """What differs of the hardware, found → wanted."""
    pairs = ((name, row[name], getattr(wanted, name)) for name in ("backend", "chip", "capability", "units"))
    return ", ".join(f"{name} {found} → {here}" for name, found, here in pairs if found != here)
