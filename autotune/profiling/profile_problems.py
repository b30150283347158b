"""Profiles problems: times their kernels, reads their counters where that is permitted, stores both."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from autotune import UserError
from autotune.importers import ncu_rep
from autotune.profiling import match_kernels, ncu, recording, store_profile
from autotune.profiling.kernel_key import NEEDED
from autotune.profiling.recording import Call
from kernel_templates.device import Device
from tuning_db import TuningDB
from tuning_db.profile_records import Columns, KernelLaunch, Metrics, Profile, Provenance

MEASURED = Columns((NEEDED, "autotune__time.q10", "autotune__time.q90"), ("byte", "ns", "ns"))


@dataclass(frozen=True)
class Profiled:
    """times: as `recording.timed` gives them; stored: the profiles; failure: why there are no counters, None if so."""

    times: Sequence[Mapping[str, Any]]
    stored: Sequence[store_profile.ProfileSummary]
    failure: str | None


def profile(calls: Sequence[Call], device: Device, name: str, db: TuningDB) -> Profiled:
    """Time the calls and run Nsight Compute on them. name: "cuda:0".

    Counters that cannot be had are a `failure`; raises UserError when the kernels do not even run.
    """
    with tempfile.TemporaryDirectory(prefix="autotune-profile-") as temporary:
        folder = Path(temporary)
        times = recording.timed(calls, name, folder)
        if isinstance(times, str):
            raise UserError(f"the kernels do not run on {name}: {times}")
        stored = [store_profile.store(_measured(times, device), db)]
        profiler = ncu.find()
        if profiler is None:
            return Profiled(times, stored, "Nsight Compute (ncu) is not installed")
        recorded = recording.record(calls, name, profiler, folder)
        if recorded.failure:
            return Profiled(times, stored, f"Nsight Compute measured nothing: {recorded.failure}")
        try:
            report = ncu_rep.read(recorded.report)
        except UserError as error:
            return Profiled(times, stored, str(error))
    report = match_kernels.with_recorded(report, recorded.kernels)
    about = replace(
        report.provenance, file=f"{_title(calls)}.ncu-rep", fingerprint=device.fingerprint, chip=device.chip,
        recorded_at=_now(),
    )  # fmt: skip
    stored.append(store_profile.store(replace(report, provenance=about), db))
    return Profiled(times, stored, None)


def _measured(times: Sequence[Mapping[str, Any]], device: Device) -> Profile:
    """One row a call, with its time and the bytes it has to move: what is known without counters."""
    launches = tuple(
        KernelLaunch(
            place=place,
            kernel=row["problem"].partition(":")[0],
            duration_ns=row["median_ns"],
            problem=row["problem"],
            config=row["config"],
            role=row["role"],
            metrics=Metrics(MEASURED, np.array([row["bytes_needed"], row["q10_ns"], row["q90_ns"]], float)),
        )
        for place, row in enumerate(times)
    )
    when = _now()
    text = json.dumps([when, *times], sort_keys=True)
    return Profile(
        Provenance(
            file=f"times of {when}", sha256=hashlib.sha256(text.encode()).hexdigest(), size_bytes=len(text),
            tool="autotune", format="measured", chip=device.chip, fingerprint=device.fingerprint, recorded_at=when,
            found=len(launches), expected=len(launches),
        ),
        launches,
    )  # fmt: skip


def _title(calls: Sequence[Call]) -> str:
    operations = dict.fromkeys(call.problem.partition(":")[0] for call in calls)
    return "profile of " + ", ".join(operations)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
