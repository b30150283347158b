"""Records to table rows and back. Reading raises ValueError on a row that makes no sense (`tuning_db.validation`)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kernel_templates.device import Device
from tuning_db import validation
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
    return _device(validation.row("devices", row))


def _device(values: Row) -> Device:
    return validation.device(
        values["backend"], values["chip"], values["capability"], values["units"], values["memory_bytes"],
        tuple((name, version) for name, version in values["versions"]),
    )  # fmt: skip


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
    """row: of `runs`, with `problem`, `trials` and the columns of its device."""
    values = validation.row("runs", row)
    validation.check("problems", {"key": row["problem"]})
    run = Run(
        problem=row["problem"],
        **{name: values[name] for name in ("template_version", "sampler", "seed", "space_size")},
        work_bytes=values["work_bytes"],
        work_ops=values["work_ops"],
        versions=values["run_versions"],
        objective=Objective(values["objective"]),
    )
    return StoredRun(
        id=int(row["id"]),
        uid=values["uid"],
        device=device_from(row),
        run=run,
        status=RunStatus(values["status"]),
        trials=int(row["trials"]),
        started_at=values["started_at"],
        finished_at=values["finished_at"],
    )


def trial_row(trial: Trial) -> dict[str, Any]:
    """An error of NaN becomes NULL (SQLite has no NaN); the message becomes one line of at most 500 characters."""
    return {
        "config": canonical_json(dict(trial.config)),
        "outcome": Outcome(trial.outcome).value,
        **(_measurement_row(trial.measurement) if trial.measurement else {}),
        "compile_s": _optional_float(trial.compile_s),
        "error": None if trial.error != trial.error else _optional_float(trial.error),
        "tolerance": _optional_float(trial.tolerance),
        "message": None if trial.message is None else _one_line(trial.message),
        "kind": TrialKind(trial.kind).value,
    }


def trial_from(row: Row) -> Trial:
    values = validation.row("run_trials", row)
    return Trial(
        config=values["config"],
        outcome=Outcome(values["outcome"]),
        measurement=None if values["median_ns"] is None else _measurement(values),
        compile_s=_optional_float(values["compile_s"]),
        error=_optional_float(values["error"]),
        tolerance=_optional_float(values["tolerance"]),
        message=values["message"],
        kind=TrialKind(values["kind"]),
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
    """row: of `winners`, with `problem`."""
    return _winner(row, validation.row("winners", row))


def _winner(row: Row, values: Row) -> Winner:
    validation.check("problems", {"key": row["problem"]})
    return Winner(
        problem=row["problem"],
        template_version=values["template_version"],
        config=values["config"],
        measurement=_measurement(values),
        default_ns=_optional_float(values["default_ns"]),
        error=float(values["error"]),
        tolerance=float(values["tolerance"]),
        reference=values["reference"],
        versions=values["winner_versions"],
        clock_mhz=_optional_float(values["clock_mhz"]),
    )


def stored_winner_from(row: Row) -> StoredWinner:
    """row: of `winners`, with `problem` and the columns of its device."""
    values = validation.row("winners", row)
    return StoredWinner(
        id=int(row["id"]),
        device=device_from(row),
        winner=_winner(row, values),
        run_id=None if row["run_id"] is None else int(row["run_id"]),
        trial_id=None if row["trial_id"] is None else int(row["trial_id"]),
        created_at=values["created_at"],
        replaced_at=values["replaced_at"],
        current=bool(row["current"]),
        uid=values["uid"],
        run_uid=values["run_uid"],
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


def _measurement(values: Row) -> Measurement:
    return Measurement(
        q10_ns=float(values["q10_ns"]),
        median_ns=float(values["median_ns"]),
        q90_ns=float(values["q90_ns"]),
        samples=values["samples"],
        state=values["state"],
        energy_uj=_optional_float(values["energy_uj"]),
    )


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
