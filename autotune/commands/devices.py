"""`autotune devices`: what this machine has, and how fast it can possibly be."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from autotune.commands import options, output

CEILINGS = {
    "read_gb_s": ("read bandwidth", "GB/s"),
    "copy_gb_s": ("copy bandwidth, both directions", "GB/s"),
    "int8_gop_s": ("8-bit integer arithmetic", "Gop/s"),
    "f32_gflop_s": ("32-bit float arithmetic", "Gflop/s"),
}


@click.command()
@click.option("--measure", is_flag=True, help="Measure the ceilings again although they are known.")
@options.db_option
@options.json_option
def devices(measure: bool, db_path: Path | None, as_json: bool) -> None:
    """Show what is here, with its measured ceilings.

    The first call measures for a few seconds; the database remembers the result.

    \b
    Example:
      autotune devices --measure
    """
    device = options.detect(options.CPU)
    from autotune import ceilings

    with options.open_database(db_path, readonly=False) as db:
        if not as_json and (measure or db.ceilings(device) is None):
            output.note("measuring bandwidth and arithmetic for a few seconds ...")
        limits = ceilings.known_or_measured(db, device, force=measure)
    found, reason = _gpus()
    if as_json:
        here = {"name": options.CPU, **output.device_document(device), "ceilings": limits}
        output.print_json({"devices": [here], "gpus_without_kernels": found})
        return
    versions = ", ".join(f"{name} {version}" for name, version in device.versions)
    facts = {
        options.CPU: device.chip,
        "instructions": device.capability,
        "threads": str(device.units),
        "memory": f"{device.memory_bytes / 1e9:.1f} GB",
        "compilers": versions,
        "fingerprint": device.fingerprint,
    }
    facts |= {title: f"{limits[key]:.1f} {unit}" for key, (title, unit) in CEILINGS.items() if key in limits}
    if "measured_at" in limits:
        facts["measured"] = datetime.fromtimestamp(limits["measured_at"]).strftime("%Y-%m-%d %H:%M")
    output.print_facts(facts)
    for gpu in found:
        click.echo(f"\n{gpu['name']}: {gpu['chip']}, {gpu['memory_bytes'] / 1e9:.1f} GB (no kernels for it yet)")
    if not found:
        click.echo(f"\nno NVIDIA GPU ({reason})")


def _gpus() -> tuple[list[dict[str, Any]], str]:
    """NVIDIA GPUs as the driver lists them, and why there are none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], str(error)
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            found.append({"name": f"cuda:{index}", "chip": str(name), "memory_bytes": memory})
        return found, "the driver lists none"
    except pynvml.NVMLError as error:
        return [], str(error)
    finally:
        pynvml.nvmlShutdown()
