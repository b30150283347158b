"""T4, the auto-tuning community's results: one run of the database as a document, and back.

The format is that of github.com/odgaard/TuningSchema; Kernel Tuner and the Auto-Tuning Association's benchmark hub use
it. SCHEMA says what we read and write of it. A document is {"schema_version", "metadata", "results"}; a result has the
configuration, why it is invalid or "correct", times in the metadata's unit and named measurements. Ours are in
milliseconds, as Kernel Tuner's; beside them our exact numbers stand as measurements in their own unit, and the metadata
says which device, problem and run they belong to.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.importers import files, tuning_results
from autotune.importers.importer import Exporter, Importer
from autotune.importers.tuning_results import TuningResults
from kernel_templates.device import Device
from tuning_db.records import Measurement, Objective, Outcome, Run, RunStatus, StoredRun, Trial, TrialKind

NAME = "T4"
VERSION = "1.0.0"
INVALIDITY = {
    Outcome.OK: "correct", Outcome.WRONG: "correctness", Outcome.FAILED_TO_COMPILE: "compile",
    Outcome.CRASHED: "runtime", Outcome.TIMED_OUT: "timeout", Outcome.PRUNED: "constraints",
    Outcome.IMPOSSIBLE: "runtime",
}  # fmt: skip
OUTCOMES = {word: outcome for outcome, word in reversed(INVALIDITY.items())}
TIMES = ("q10_ns", "median_ns", "q90_ns")
UNITS = {"milliseconds": 1e6, "microseconds": 1e3, "nanoseconds": 1.0, "seconds": 1e9}
_MEASUREMENT = {
    "type": "object",
    "required": ["name", "value"],
    "properties": {
        "name": {"type": "string"}, "value": {"type": ["number", "string", "array"]}, "unit": {"type": "string"},
    },
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "schema_version": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "metadata": {"type": "object"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["configuration", "times", "invalidity", "correctness"],
                "properties": {
                    "configuration": {"type": "object"},
                    "times": {"type": "object"},
                    "invalidity": {"enum": list(OUTCOMES)},
                    "correctness": {"type": "number"},
                    "measurements": {"type": "array", "items": _MEASUREMENT},
                    "objectives": {"type": "array"},
                    "timestamp": {"type": "string"},
                },
            },
        },
    },
}


def document(stored: StoredRun, trials: Sequence[Trial]) -> dict[str, Any]:
    """A run and its trials. Raises UserError when the result is not T4, which would be our mistake."""
    made = {
        "schema_version": VERSION,
        "metadata": {
            "timeunit": "milliseconds",
            "tool": "autotune",
            "device": asdict(stored.device),
            "run": asdict(stored.run),
            "status": stored.status.value,
            "started_at": stored.started_at,
            "finished_at": stored.finished_at,
        },
        "results": [_result(trial) for trial in each_once(trials)],
    }
    files.check_schema(made, SCHEMA, f"run {stored.id} as T4")
    return made


def each_once(trials: Sequence[Trial]) -> list[Trial]:
    """A configuration is one result: what it was when the search tried it, or else in the final comparison."""
    chosen: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.kind is TrialKind.FINAL_COMPARISON):
        chosen.setdefault(json.dumps(trial.config, sort_keys=True), trial)
    return list(chosen.values())


def _result(trial: Trial) -> dict[str, Any]:
    m = trial.measurement
    exact: dict[str, tuple[Any, str]] = {} if m is None else {name: (getattr(m, name), "ns") for name in TIMES}
    if m is not None:
        state = None if m.state is None else json.dumps(dict(m.state), allow_nan=False)
        more = {"samples": (m.samples, ""), "energy": (m.energy_uj, "uJ"), "state": (state, "")}
        exact = {"time": (m.median_ns * 1e-6, "ms"), **exact, **more}
    exact |= {"compile_s": (trial.compile_s, "s"), "error": (trial.error, ""), "tolerance": (trial.tolerance, "")}
    return {
        "configuration": dict(trial.config),
        "times": {
            **({} if trial.compile_s is None else {"compilation_time": trial.compile_s * 1e3}),
            "runtimes": [] if m is None else [m.median_ns * 1e-6],
        },
        "invalidity": INVALIDITY[trial.outcome],
        "correctness": 0.0 if trial.outcome is Outcome.WRONG else 1.0,
        "objectives": ["time"],
        "measurements": [
            {"name": name, "value": _said(value), "unit": unit}
            for name, (value, unit) in (
                exact | {"message": (trial.message, ""), "outcome": (trial.outcome, ""), "kind": (trial.kind, "")}
            ).items()
            if value is not None
        ],
    }


def _said(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def recognizes(head: bytes) -> bool:
    """A JSON object that begins with the results, or what stands around them."""
    begin = head.lstrip()
    keys = (b'"results"', b'"schema_version"', b'"metadata"')
    others = b'"tune_params_keys"' in begin and b'"results"' not in begin  # Kernel Tuner's caches have a version, too
    return begin[:1] == b"{" and begin[1:].lstrip().startswith(keys) and not others


def read(path: Path) -> TuningResults:
    """The run as it was, if autotune wrote it; else a run of its device's name. Raises UserError."""
    made = files.json_of(path)
    files.check_schema(made, SCHEMA, str(path))
    metadata = made.get("metadata", {})
    if metadata.get("tool") == "autotune":
        device, run, status, times = _ours(metadata, path)
    else:
        device, run, status, times = _foreign_device(metadata, path), None, RunStatus.FINISHED, (None, None)
    unit = UNITS.get(metadata.get("timeunit", "milliseconds"))
    if unit is None:
        raise UserError(f"{path} counts time in {metadata['timeunit']!r:.40}; known are {', '.join(UNITS)}")
    trials = [_trial(result, unit, path) for result in made["results"]]
    run = run or tuning_results.foreign_run(f"t4:{path.stem.partition('.')[0]}", NAME, len(trials))
    return TuningResults(path.name, NAME, device, run, tuple(trials), status, *times)


def _ours(metadata: Mapping[str, Any], path: Path) -> tuple[Device, Run, RunStatus, tuple[str | None, str | None]]:
    try:
        versions = tuple((str(name), str(version)) for name, version in metadata["device"]["versions"])
        device = Device(**{**metadata["device"], "versions": versions})
        run = Run(**{**metadata["run"], "objective": Objective(metadata["run"]["objective"])})
        times = (metadata["started_at"], metadata["finished_at"])
        if not isinstance(run.problem, str) or not all(time is None or isinstance(time, str) for time in times):
            raise TypeError("a problem and times are texts")
        status = RunStatus(metadata["status"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its metadata say {type(error).__name__}: {str(error)[:80]}") from None
    return device, run, RunStatus.INTERRUPTED if status is RunStatus.RUNNING else status, times


def _foreign_device(metadata: Mapping[str, Any], path: Path) -> Device:
    named = metadata.get("device_name") or metadata.get("device") or f"unnamed device of {path.name}"
    return tuning_results.foreign_device(str(named)[:100])


def _trial(result: Mapping[str, Any], unit: float, path: Path) -> Trial:
    found = {entry["name"]: entry for entry in result.get("measurements", [])}
    exact = found["outcome"]["value"] if "outcome" in found else None
    outcome = Outcome(exact) if exact in tuple(Outcome) else OUTCOMES[result["invalidity"]]

    def number(name: str) -> float | None:
        value = found[name]["value"] if name in found else None
        if value in ("inf", "-inf", "nan"):
            return float(value)
        return None if value is None else tuning_results.finite(value, name, path)

    measurement = None
    if all(name in found for name in (*TIMES, "samples")):
        low, middle, high = (tuning_results.finite(found[name]["value"], name, path) for name in TIMES)
        samples = int(tuning_results.finite(found["samples"]["value"], "samples", path))
        measurement = Measurement(low, middle, high, samples, _state(found, path), number("energy"))
    elif outcome is Outcome.OK:
        measurement = _foreign_time(result, found, unit, path)
    message = found["message"]["value"] if "message" in found else None
    kind = found["kind"]["value"] if "kind" in found else TrialKind.SEARCH
    if message == "rematch":  # what exports said before trials had a kind
        message, kind = None, TrialKind.FINAL_COMPARISON
    compiled = result["times"].get("compilation_time", result["times"].get("compilation"))
    compile_s = number("compile_s") if "compile_s" in found else None
    if compile_s is None and compiled is not None:
        compile_s = tuning_results.finite(compiled, "compilation_time", path) * unit * 1e-9
    config = result["configuration"]
    try:
        json.dumps(config, allow_nan=False)
    except ValueError:
        raise UserError(f"{path} is damaged: a configuration is no JSON") from None
    return Trial(
        config, outcome, measurement, compile_s, number("error"), number("tolerance"),
        None if message is None else str(message), TrialKind(kind) if kind in tuple(TrialKind) else TrialKind.SEARCH,
    )  # fmt: skip


def _state(found: Mapping[str, Any], path: Path) -> Mapping[str, Any] | None:
    if "state" not in found:
        return None
    state = files.json_of(path, str(found["state"]["value"]))
    if not isinstance(state, dict):
        raise UserError(f"{path} is damaged: a device's state is {state!r:.40}")
    return state


def _foreign_time(result: Mapping[str, Any], found: Mapping[str, Any], unit: float, path: Path) -> Measurement:
    """Another tool's time: quantiles of its runtimes, or its objective alone."""
    runtimes = [tuning_results.finite(t, "a runtime", path) for t in result["times"].get("runtimes") or []]
    if runtimes:
        return tuning_results.quantiles([t * unit for t in runtimes])
    objective = next(iter(result.get("objectives") or ["time"]))
    if objective not in found:
        raise UserError(f"{path} is damaged: a correct configuration has neither runtimes nor {objective!r:.40}")
    scale = {"ms": 1e6, "us": 1e3, "ns": 1.0, "s": 1e9}.get(found[objective].get("unit", ""), unit)
    return tuning_results.quantiles([tuning_results.finite(found[objective]["value"], "a time", path) * scale])


IMPORTER = Importer("T4 results", recognizes, read)
EXPORTER = Exporter("t4", document)
