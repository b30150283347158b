"""`autotune devices`: lists this machine's devices with their measured ceilings."""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.commands import options, output

if TYPE_CHECKING:
    from kernel_templates.device import Device

CEILINGS = {
    "read_gb_s": ("read bandwidth", "GB/s"),
    "copy_gb_s": ("copy bandwidth, both directions", "GB/s"),
    "int8_gop_s": ("8-bit integer arithmetic", "Gop/s"),
    "f32_gflop_s": ("32-bit float arithmetic", "Gflop/s"),
}


@click.command()
@click.option("--measure", is_flag=True, help="Measure the ceilings again even if they are known.")
@options.threads_option
@options.db_option
@options.json_option
def devices(measure: bool, db_path: Path | None, as_json: bool) -> None:
    """Show what is here, with its measured ceilings.

    The first call measures each device for a few seconds; the database remembers the best result. One that was
    measured on a busy machine is measured again by the next call.

    \b
    Example:
      autotune devices --measure
    """
    names, unusable = _devices()
    here = {name: options.detect(name) for name in names}
    from autotune.runner import ceilings

    limits: dict[str, dict[str, float]] = {}
    with options.open_database(db_path, readonly=False) as db:
        for name, device in here.items():
            measuring = measure or not ceilings.settled(db.ceilings(device))
            if measuring and not as_json:
                output.note(f"measuring what {name} can do, a few seconds ...")
            with options.alone(name) if measuring else nullcontext():
                limits[name] = ceilings.known_or_measured(db, device, force=measure, index=_index(name))
    if as_json:
        shown = [{"name": n, **output.device_document(d), "ceilings": limits[n]} for n, d in here.items()]
        output.print_json({"devices": shown, "unusable_gpus": unusable})
        return
    for number, (name, device) in enumerate(here.items()):
        if number:
            click.echo()
        output.print_facts(_facts(name, device, limits[name]))
    for gpu in unusable:
        click.echo()
        output.line(f"{gpu['name']}: {gpu['chip']} ({gpu['reason']})")
    if len(here) == 1 and not unusable:
        from kernel_templates.cuda import machine

        click.echo(f"\nno NVIDIA GPU ({machine.listed()[1]})")


def _facts(name: str, device: "Device", limits: Mapping[str, float]) -> dict[str, str]:
    own = {"instructions": device.capability, "threads": str(device.units)}
    if device.backend == "cuda":
        own = {"compute capability": device.capability, "multiprocessors": str(device.units)}
    facts = {
        name: device.chip,
        **own,
        "memory": f"{device.memory_bytes / 1e9:.1f} GB",
        "software" if device.backend == "cuda" else "compilers": ", ".join(f"{n} {v}" for n, v in device.versions),
        "fingerprint": device.fingerprint,
    }
    facts |= {title: f"{limits[key]:.1f} {unit}" for key, (title, unit) in CEILINGS.items() if key in limits}
    if "busy" in limits:
        facts["note"] = (
            f"the machine is busy: all threads read {limits['busy']:.0%} of what fewer read; measured again next time"
        )
    if "measured_at" in limits:
        facts["measured"] = datetime.fromtimestamp(limits["measured_at"]).strftime("%Y-%m-%d %H:%M")
    return facts


def _devices() -> tuple[list[str], list[dict[str, str]]]:
    """Names of what can be used, and GPUs that cannot, each with the reason."""
    from kernel_templates.cuda import machine

    usable, unusable = [options.CPU], []
    listed, _ = machine.listed()
    for index in range(machine.count() or len(listed)):
        name = f"cuda:{index}"
        try:
            machine.check(index)
            usable.append(name)
        except machine.DeviceError as error:
            chip = listed[index] if index < len(listed) else "NVIDIA GPU"
            unusable.append({"name": name, "chip": chip, "reason": str(error)})
    return usable, unusable


def _index(name: str) -> int:
    return int(name.partition(":")[2] or 0)
