"""The profile of calls that were timed without a profiler: what is known where counters may not be read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.profiling.kernel_key import NEEDED
from autotune.runner.versions import versions
from kernel_templates.device import Device
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance
from tuning_db.records import Measurement

FORMAT, PREFIX = "measured", "times of "
Q10, Q90, SAMPLES = "autotune__time.q10", "autotune__time.q90", "autotune__time.samples"
COLUMNS = Columns((NEEDED, Q10, Q90, SAMPLES), ("byte", "ns", "ns", ""))
ROW = ("bytes_needed", "q10_ns", "q90_ns", "samples")  # of COLUMNS, what `recording.timed` calls them


def profile_of(times: Sequence[Mapping[str, Any]], title: str, when: str, device: Device) -> Profile:
    """One row a call, with its time and the bytes it has to move. times: as `recording.timed` gives them; when: UTC in
    ISO 8601."""
    launches = tuple(
        KernelLaunch(
            place=place,
            kernel=row["problem"].partition(":")[0],
            duration_ns=row["median_ns"],
            problem=row["problem"],
            config=row["config"],
            role=row["role"],
            metrics=Metrics(COLUMNS, np.array([row[name] for name in ROW], float)),
        )
        for place, row in enumerate(times)
    )
    text, commit = json.dumps([title, when, *times], sort_keys=True), versions().get("commit")
    return Profile(
        Provenance(
            file=f"{PREFIX}{title}", sha256=hashlib.sha256(text.encode()).hexdigest(), size_bytes=len(text),
            tool="autotune", format=FORMAT, tool_version=f"commit {commit}" if commit else "", chip=device.chip,
            fingerprint=device.fingerprint, recorded_at=when, found=len(launches), expected=len(launches),
        ),
        launches,
    )  # fmt: skip


def title(provenance: Provenance) -> str:
    """What `profile_of` was told; of the counters' report beside it too, which ends in .ncu-rep."""
    return provenance.file.removeprefix(PREFIX).removesuffix(".ncu-rep")


def measurement(launch: KernelLaunch) -> Measurement | None:
    """The time of one call as `profile_of` wrote it; None where it wrote none. Databases of earlier versions do not say
    how many samples there were: 1, the least that can be."""
    q10, q90, samples = (launch.metrics.number(name) for name in (Q10, Q90, SAMPLES))
    if launch.duration_ns is None or q10 is None or q90 is None:
        return None
    return Measurement(q10, launch.duration_ns, q90, int(samples or 1))
