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
from tuning_db import field_checks as f
from tuning_db import validation
from tuning_db.field_checks import Fields
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
_NUMBER = f.number(*f.FINITE)
_DEVICE = ("backend", "chip", "capability", "units", "memory_bytes")
_RUN = ("template_version", "sampler", "seed", "space_size", "work_bytes", "work_ops")
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
            "uid": stored.uid,
            "status": stored.status.value,
            "started_at": stored.began_at,
            "finished_at": stored.finished_at if stored.began_at else None,
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
    """The run as it was, if autotune wrote it; else a run of its device's name. Raises UserError, and ValueError for a
    value that is not what it has to be."""
    made = Fields(files.json_of(path))
    made.take("schema_version", f.text(), VERSION)
    results = made.objects("results")
    metadata = made.object("metadata", {})
    if metadata.values.get("tool") == "autotune":
        device, run, status, times = _ours(metadata)
    else:
        device, run, status, times = _foreign_device(metadata, path), None, RunStatus.FINISHED, (None, None)
    word = metadata.take("timeunit", f.text(), "milliseconds")
    unit = tuning_results.nanoseconds_of(word)
    if unit is None:
        raise UserError(
            f"{path} counts time in {word!r:.40}; known are milliseconds, microseconds, nanoseconds, seconds"
        )
    trials = [_trial(path, result, unit) for result in results]
    uid = metadata.take("uid", validation.TABLES["runs"]["uid"], None) if run else None
    run = run or tuning_results.foreign_run(f"t4:{path.stem.partition('.')[0]}", NAME, len(trials))
    ended_at = tuning_results.moments([result.values.get("timestamp") for result in results]) if uid is None else ()
    return TuningResults(path.name, NAME, device, run, tuple(trials), status, *times, uid, ended_at)


def _ours(metadata: Fields) -> tuple[Device, Run, RunStatus, tuple[str | None, str | None]]:
    about, said = metadata.object("device"), metadata.object("run")
    of_device, of_run = validation.TABLES["devices"], validation.TABLES["runs"]
    device = Device(
        **{name: about.take(name, of_device[name]) for name in _DEVICE},
        versions=tuple((name, version) for name, version in about.take("versions", of_device["versions"])),
    )
    run = Run(
        problem=said.take("problem", validation.TABLES["problems"]["key"]),
        versions=said.take("versions", of_run["run_versions"], {}),
        objective=Objective(said.take("objective", of_run["objective"])),
        **{name: said.take(name, of_run[name]) for name in _RUN},
    )
    times = metadata.take("started_at", f.maybe(f.date)), metadata.take("finished_at", f.maybe(f.date))
    status = RunStatus(metadata.take("status", of_run["status"]))
    return device, run, RunStatus.INTERRUPTED if status is RunStatus.RUNNING else status, times


def _foreign_device(metadata: Fields, path: Path) -> Device:
    named = next((v for n in ("device_name", "device") if (v := metadata.values.get(n)) and type(v) is str), None)
    return tuning_results.foreign_device(named or "", path.name)


def _trial(path: Path, result: Fields, unit: float) -> Trial:
    """unit: nanoseconds in one of the document's."""
    found = {entry.take("name", f.text()): entry for entry in result.objects("measurements", [])}
    invalid = result.take("invalidity", f.text())
    if invalid not in OUTCOMES:
        raise ValueError(f"{result.where} is {f.shown(invalid)}, none of {', '.join(OUTCOMES)}")
    result.take("correctness", f.number(-math.inf, math.inf), 1.0)
    times = result.object("times", {})

    def measured(name: str, check: f.Check) -> Any:
        return found[name].take("value", check) if name in found else None

    def number(name: str) -> float | None:
        """Beyond JSON's numbers as a word."""
        if name not in found or found[name].values.get("value") == "nan":
            return None
        word = found[name].values.get("value")
        return float(word) if word in ("inf", "-inf") else found[name].take("value", _NUMBER)

    exact = found["outcome"].values.get("value") if "outcome" in found else None
    outcome = Outcome(exact) if exact in tuple(Outcome) else OUTCOMES[invalid]
    measurement: Measurement | None = None
    timed: Trial | None = None
    if all(name in found for name in (*TIMES, "samples")):
        low, middle, high = (measured(name, _NUMBER) for name in TIMES)
        samples = measured("samples", f.whole(*f.COUNT))
        measurement = Measurement(low, middle, high, samples, _state(measured("state", f.text())), number("energy"))
    elif outcome is Outcome.OK:
        timed = _foreign_time(path, result, times, found, unit)
    message, kind = measured("message", f.text()), found["kind"].values.get("value") if "kind" in found else None
    if message == "rematch":  # what exports said before trials had a kind
        message, kind = None, TrialKind.FINAL_COMPARISON
    if timed is not None:
        outcome, measurement, message = timed.outcome, timed.measurement, timed.message or message
    compile_s = number("compile_s")
    if compile_s is None:
        compiled = times.take("compilation_time", _NUMBER, times.take("compilation", _NUMBER, None))
        compile_s = None if compiled is None else compiled * unit * 1e-9
    return Trial(
        result.take("configuration", f.mapping_of(f.scalar)), outcome, measurement, compile_s, number("error"),
        number("tolerance"), message, TrialKind(kind) if kind in tuple(TrialKind) else TrialKind.SEARCH,
    )  # fmt: skip


def _state(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        state = json.loads(text)
        f.mapping_of(f.document)(state)
    except (ValueError, RecursionError):
        raise ValueError(f"a device's state cannot be {f.shown(text)}") from None
    return state


def _foreign_time(path: Path, result: Fields, times: Fields, found: Mapping[str, Fields], unit: float) -> Trial:
    """Another tool's time: quantiles of its runtimes, or its objective alone; a failed trial where that stands for one.

    Raises UserError for an objective that is no time: what the file calls runtimes may then be of the tuner itself.
    """
    objectives = result.take("objectives", f.list_of(f.text()), None) or ["time"]
    units = {name: found[name].take("unit", f.text(), "") for name in (*objectives, "time") if name in found}
    config = result.take("configuration", f.mapping_of(f.scalar))
    for name in units:
        if failed := tuning_results.failure(config, found[name].values.get("value"), None):
            return failed
    timed = next((name for name, word in units.items() if tuning_results.is_time(name, word)), None)
    if timed is None and not any(tuning_results.is_time(name, units.get(name, "")) for name in objectives):
        raise tuning_results.no_time(path, objectives[0])
    if runtimes := times.take("runtimes", f.maybe(f.list_of(f.any_value)), None):
        return tuning_results.timed(config, runtimes, unit)
    if timed is None:
        return tuning_results.timed(config, [None], unit)
    return tuning_results.timed(
        config, [found[timed].values.get("value")], tuning_results.nanoseconds_of(units[timed]) or unit
    )


IMPORTER = Importer("T4 results", recognizes, read)
EXPORTER = Exporter("t4", document)
