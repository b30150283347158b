"""Records to table rows and back. Reading raises ValueError, TypeError or KeyError on a row that makes no sense."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kernel_templates.device import Device
from tuning_db.records import (
    Measurement,
    Objective,
    Outcome,
    Run,
    RunStatus,
    StoredRun,
    StoredWinner,
    Trial,
    TrialKind,
    Winner,
)

MESSAGE_LIMIT = 500

Row = Mapping[str, Any]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces. Raises ValueError for NaN and infinities."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain_number
    )


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def device_row(device: Device) -> dict[str, Any]:
    return {
        "fingerprint": device.fingerprint,
        "chip_key": device.chip_key,
        "backend": device.backend,
        "chip": device.chip,
        "capability": device.capability,
        "units": int(device.units),
        "memory_bytes": int(device.memory_bytes),
        "versions": canonical_json(device.versions),
    }


def device_from(row: Row) -> Device:
    return Device(
        backend=row["backend"],
        chip=row["chip"],
        capability=row["capability"],
        units=int(row["units"]),
        memory_bytes=int(row["memory_bytes"]),
        versions=tuple((str(name), str(version)) for name, version in json.loads(row["versions"])),
    )


def run_row(run: Run) -> dict[str, Any]:
    return {
        "template_version": int(run.template_version),
        "sampler": run.sampler,
        "seed": int(run.seed),
        "space_size": int(run.space_size),
        "work_bytes": int(run.work_bytes),
        "work_ops": int(run.work_ops),
        "run_versions": canonical_json(dict(run.versions)),
        "objective": Objective(run.objective).value,
    }


def stored_run_from(row: Row) -> StoredRun:
    run = Run(
        problem=row["problem"],
        template_version=int(row["template_version"]),
        sampler=row["sampler"],
        seed=int(row["seed"]),
        space_size=int(row["space_size"]),
        work_bytes=int(row["work_bytes"]),
        work_ops=int(row["work_ops"]),
        versions=mapping(row["run_versions"]),
        objective=Objective(row["objective"]),
    )
    return StoredRun(
        id=int(row["id"]),
        uid=row["uid"],
        device=device_from(row),
        run=run,
        status=RunStatus(row["status"]),
        trials=int(row["trials"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def trial_row(trial: Trial) -> dict[str, Any]:
    """An error of NaN becomes NULL (SQLite has no NaN); the message becomes one line of at most 500 characters."""
    return {
        "config": canonical_json(dict(trial.config)),
        "outcome": Outcome(trial.outcome).value,
        **(_measurement_row(trial.measurement) if trial.measurement else {}),
        "compile_s": _optional_float(trial.compile_s),
        "error": _optional_float(trial.error),
        "tolerance": _optional_float(trial.tolerance),
        "message": None if trial.message is None else _one_line(trial.message),
        "kind": TrialKind(trial.kind).value,
    }


def trial_from(row: Row) -> Trial:
    return Trial(
        config=mapping(row["config"]),
        outcome=Outcome(row["outcome"]),
        measurement=None if row["median_ns"] is None else _measurement_from(row),
        compile_s=_optional_float(row["compile_s"]),
        error=_optional_float(row["error"]),
        tolerance=_optional_float(row["tolerance"]),
        message=row["message"],
        kind=TrialKind(row["kind"]),
    )


def winner_row(winner: Winner) -> dict[str, Any]:
    return {
        "template_version": int(winner.template_version),
        "config": canonical_json(dict(winner.config)),
        **_measurement_row(winner.measurement),
        "default_ns": _optional_float(winner.default_ns),
        "error": float(winner.error),
        "tolerance": float(winner.tolerance),
        "reference": None if winner.reference is None else _one_line(winner.reference),
        "winner_versions": canonical_json(dict(winner.versions)),
        "clock_mhz": _optional_float(winner.clock_mhz),
    }


def winner_from(row: Row) -> Winner:
    return Winner(
        problem=row["problem"],
        template_version=int(row["template_version"]),
        config=mapping(row["config"]),
        measurement=_measurement_from(row),
        default_ns=_optional_float(row["default_ns"]),
        error=float(row["error"]),
        tolerance=float(row["tolerance"]),
        reference=row["reference"],
        versions=mapping(row["winner_versions"]),
        clock_mhz=_optional_float(row["clock_mhz"]),
    )


def stored_winner_from(row: Row) -> StoredWinner:
    return StoredWinner(
        id=int(row["id"]),
        device=device_from(row),
        winner=winner_from(row),
        run_id=row["run_id"],
        trial_id=row["trial_id"],
        created_at=row["created_at"],
        replaced_at=row["replaced_at"],
        current=bool(row["current"]),
        uid=row["uid"],
        run_uid=row["run_uid"],
    )


def _measurement_row(measurement: Measurement) -> dict[str, Any]:
    return {
        "q10_ns": float(measurement.q10_ns),
        "median_ns": float(measurement.median_ns),
        "q90_ns": float(measurement.q90_ns),
        "samples": int(measurement.samples),
        "state": None if measurement.state is None else canonical_json(dict(measurement.state)),
        "energy_uj": _optional_float(measurement.energy_uj),
    }


def _measurement_from(row: Row) -> Measurement:
    return Measurement(
        q10_ns=float(row["q10_ns"]),
        median_ns=float(row["median_ns"]),
        q90_ns=float(row["q90_ns"]),
        samples=int(row["samples"]),
        state=None if row["state"] is None else mapping(row["state"]),
        energy_uj=_optional_float(row["energy_uj"]),
    )


def mapping(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {text[:40]!r}")
    return value


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _one_line(text: str) -> str:
    # A compiler's output can hold bytes that are no text; SQLite takes only what UTF-8 can say.
    line = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def _plain_number(value: Any) -> Any:
    # NumPy scalars reach a configuration through a sampler; they are numbers all the same.
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a tuning record")
