"""Profiles problems: times their kernels, reads their counters where that is permitted, stores both."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kernel_templates
from autotune import UserError
from autotune.importers import ncu_rep, ncu_rep_library
from autotune.profiling import match_kernels, measured_times, ncu, recording, store_profile
from autotune.profiling.recording import Call
from kernel_templates.device import Device
from tuning_db import TuningDB
from tuning_db.profile_records import Profile


@dataclass(frozen=True)
class Profiled:
    """times: as `recording.timed` gives them; stored: the profiles; failure: why there are no counters, None if so;
    kept: where Nsight Compute's own report was left, None if nowhere."""

    times: Sequence[Mapping[str, Any]]
    stored: Sequence[store_profile.ProfileSummary]
    failure: str | None
    kept: Path | None = None


def profile(
    calls: Sequence[Call], device: Device, name: str, db: TuningDB, title: str | None = None, keep: Path | None = None
) -> Profiled:
    """Time the calls and run Nsight Compute on them; two profiles of one moment and title.

    name: "cuda:0"; title: None for the operations' names; keep: a file for Nsight Compute's own report, which is kept
    even where it cannot be read here.

    Counters that cannot be had are a `failure`; raises UserError when the kernels do not even run.
    """
    title, when = title or _title(calls), datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="autotune-profile-") as temporary:
        folder = Path(temporary)
        times = recording.timed(calls, name, folder)
        if isinstance(times, str):
            raise UserError(f"the kernels do not run on {name}: {times}")
        stored = [store_profile.store(measured_times.profile_of(times, title, when, device), db)]
        profiler = ncu.find()
        if profiler is None:
            return Profiled(times, stored, "Nsight Compute (ncu) is not installed")
        if keep is None and ncu_rep_library.folders() is None:
            missing = f"to read them takes {ncu_rep.MISSING}; --report FILE records them all the same"
            return Profiled(times, stored, missing)
        recorded = recording.record(calls, name, profiler, folder)
        if recorded.failure:
            return Profiled(times, stored, f"Nsight Compute measured nothing: {recorded.failure}")
        kept = None if keep is None else Path(shutil.copyfile(recorded.report, keep))
        try:
            report = ncu_rep.read(recorded.report)
        except UserError as error:
            return Profiled(times, stored, str(error), kept)
    report = _with_sources(match_kernels.with_recorded(report, recorded.kernels))
    provenance = replace(
        report.provenance, file=f"{title}.ncu-rep", fingerprint=device.fingerprint, chip=device.chip,
        recorded_at=when,
    )  # fmt: skip
    stored.append(store_profile.store(replace(report, provenance=provenance), db))
    return Profiled(times, stored, None, kept)


def _with_sources(report: Profile) -> Profile:
    """With the texts of our files that Nsight Compute did not find: a kernel that was compiled in another copy of this
    package, since removed, is kept for all with the same sources, and names the files of that copy."""
    sources = dict(report.sources)
    for name in {line.file for launch in report.launches for line in launch.lines if line.file}:
        _, here, inside = name.rpartition(f"/{kernel_templates.__name__}/")
        own = Path(kernel_templates.__file__).parent / inside
        if here and not sources.get(name) and own.is_file():
            sources[name] = own.read_text()
    return replace(report, sources=sources)


def _title(calls: Sequence[Call]) -> str:
    operations = dict.fromkeys(call.problem.partition(":")[0] for call in calls)
    return "profile of " + ", ".join(operations)
