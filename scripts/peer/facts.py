"""What a reader needs to believe and repeat a number: machine, versions, flags, commit and command."""

import json
import os
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peer.build import recorded_args
from peer.child import Child

from autotune.runner import bandwidth
from autotune.runner.versions import versions
from kernel_templates.cpu import machine


def context(peer: Child, python: Path, measure: bool) -> dict[str, Any]:
    """Everything but the results. measure: read the memory now (3 s), instead of leaving the bandwidth out."""
    about = peer.ask("about")
    facts = {**here(), "peer": {**about, "cmake_args": recorded_args(python) or "prebuilt, not recorded"}}
    if measure:
        facts["device"]["read_gb_s"] = round(bandwidth.ceilings(machine.detect().units)["read_gb_s"], 1)
    return facts


def here() -> dict[str, Any]:
    """When, by which command, with which versions, on which processor, and how busy it was."""
    device = machine.detect()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([f"scripts/{Path(sys.argv[0]).stem}", *_shown(sys.argv[1:])]),
        "versions": versions(),
        "device": {
            "chip": device.chip, "instructions": device.capability, "cores": os.cpu_count(),
            "memory_bytes": device.memory_bytes,
        },
        "load_average_1min": os.getloadavg()[0],
    }  # fmt: skip


def chip_folder(chip: str) -> str:
    """The folder in benchmarks/ of a GPU's results: "h100" for "NVIDIA H100 80GB HBM3", "rtx-4090" for a GeForce."""
    name = re.search(r"\b(?:rtx |gtx )?[a-z]{0,2}\d+[a-z]*(?: ti| super)*\b", chip.lower())
    return re.sub(r"[^a-z0-9]+", "-", name[0] if name else chip.lower()).strip("-")


def write(path: Path, document: dict[str, Any]) -> None:
    """Replace the file in one step: an interrupted run leaves the old results whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def _shown(arguments: list[str]) -> list[str]:
    """Arguments with folders left out: where somebody keeps a file is nobody's business."""
    return [Path(word).name if "/" in word else word for word in arguments]
