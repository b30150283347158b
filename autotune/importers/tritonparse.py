"""tritonparse's structured logs: what Triton compiled, launched and auto-tuned, one JSON object a line.

From tritonparse 0.6 (TRITON_TRACE_FOLDER): raw logs (.ndjson, .bin.ndjson where gzipped) and those that its parser
wrote (_mapped.ndjson.gz). An event has "event_type", "timestamp" and what belongs to its type:

- autotune: "kernel_name", "autotune_key", "configs_timings": {"BLOCK: 64, num_warps: 4, ...": times in ms}, "duration"
  in s, "cache_hit". Triton's times are quantiles (0.5, 0.2, 0.8), tritonparse calls them [min, mean, max]: the middle
  one of three in order is the median or the mean. What did not run has infinite ones.
- autotune_analysis: the same of a parsed log, in "autotune_result".
- compilation: "payload"/"metadata" with Triton's own of the kernel; its "times" are in µs.
- launch: "name", "grid", without a time.

Every session in which something was measured becomes a run; compilations and launches become tables.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from autotune import UserError
from autotune.importers import files, tuning_results
from autotune.importers.importer import Importer
from autotune.importers.tuning_results import TuningResults
from tuning_db import field_checks as f
from tuning_db.field_checks import Fields
from tuning_db.profile_records import KernelLaunch, Profile, ReportTable, RowKind
from tuning_db.records import Trial

NAME = "tritonparse log"
AGAIN = "copy it again"
MOST_TRIALS, MOST_COMPILATIONS = 1 << 18, 1 << 16  # that one log is read for
LONGEST_LINE = 1 << 26  # bytes: a compilation carries its kernel's source and code in five languages
_EVENT = re.compile(rb'\{"event_type": ?"(?:compilation|launch|autotune\w*|ir_analysis|launch_diff|roofline)"')
_NUMBER = f.number(*f.FINITE)
_WORDS = {"True": True, "False": False}
_COLUMNS = (
    ("kernel", ""), ("warps", ""), ("stages", ""), ("CTAs", ""), ("shared memory", "byte"), ("target", ""),
    ("from the cache", ""), ("compile time", "ns"), ("hash", ""),
)  # fmt: skip


@dataclass
class _Log:
    """What was found so far. sessions: raw events of the autotuner, analyses: those of a parsed log."""

    sessions: list[Fields] = field(default_factory=list)
    analyses: list[Fields] = field(default_factory=list)
    compilations: list[tuple[float | str | None, ...]] = field(default_factory=list)
    launches: Counter[str] = field(default_factory=Counter)
    targets: dict[str, None] = field(default_factory=dict)
    cut: bool = False


def recognizes(head: bytes) -> bool:
    return _EVENT.match(head.lstrip()) is not None


def read(path: Path) -> tuple[TuningResults | Profile, ...]:
    """A run for each session of the autotuner that measured something, and one profile of all else. Raises UserError,
    and ValueError for a value that is not what it has to be."""
    log = _Log()
    for event in _events(path, log):
        _take(log, event)
    target = " or ".join(log.targets)
    device = tuning_results.foreign_device(target and f"unnamed GPU, {target}", path.name)
    runs, measured, cached = list[TuningResults](), 0, 0
    for session in log.sessions or log.analyses:
        trials = _trials(session)
        measured += len(trials)
        if measured > MOST_TRIALS:
            raise UserError(f"{path} has more than {MOST_TRIALS:,} measured configurations; import a part of it")
        if not trials:
            cached += 1
            continue
        run = tuning_results.foreign_run(_problem(session), "tritonparse", len(trials))
        began, ended = _when(session)
        runs.append(TuningResults(path.name, NAME, device, run, trials, started_at=began, finished_at=ended))
    note = _note(log, cached)
    if tables := _tables(log):
        return *runs, _profile(path, log, target, tables, note)
    if not runs:
        raise files.unusable(
            path, "has no event that says anything of a kernel", "record it with TRITON_TRACE_LAUNCH=1"
        )
    return replace(runs[0], note=note), *runs[1:]


def _events(path: Path, log: _Log) -> Iterator[Fields]:
    """The events of a log; a last line without an end is none."""
    if path.stat().st_size > files.LARGEST_TEXT:
        raise files.unusable(path, f"is larger than {files.LARGEST_TEXT:,} bytes", "import a part of it")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(f"{path} has more than {LONGEST_LINE:,} bytes in line {number}; leave that event out")
            if not line.strip():
                continue
            try:
                found = files.json_of(path, line.decode())
            except (UserError, UnicodeDecodeError):
                if line.endswith(b"\n"):
                    raise files.unusable(path, f"is damaged in line {number}", AGAIN) from None
                log.cut = True
                return
            yield Fields(found, f"line {number}")


def _take(log: _Log, event: Fields) -> None:
    kind = event.take("event_type", f.text())
    if kind == "autotune":
        log.sessions.append(event)
    elif kind == "autotune_analysis" and event.values.get("autotune_result") is not None:
        result = event.object("autotune_result")
        about = {"kernel_name": event.values.get("name"), "duration": result.values.get("benchmark_duration")}
        log.analyses.append(Fields({**event.values, **about, **result.values}, event.where))
    elif kind == "launch":
        log.launches[event.take("name", f.text())] += 1
    elif kind == "compilation" and len(log.compilations) < MOST_COMPILATIONS:
        made = event.object("payload").object("metadata")
        target = made.take("target", f.any_value, None)
        arch = target.get("arch") if isinstance(target, dict) else None
        named = f"sm_{arch}" if type(arch) is int else str(arch or made.values.get("arch") or "")[:40]
        if named:
            log.targets[named] = None
        log.compilations.append(_compilation(made, named))


def _compilation(made: Fields, target: str) -> tuple[float | str | None, ...]:
    """The values of _COLUMNS."""
    numbers = [made.take(name, f.maybe(_NUMBER), None) for name in ("num_warps", "num_stages", "num_ctas", "shared")]
    cached = {True: "yes", False: "no", None: ""}[made.take("cache_hit", f.maybe(f.flag), None)]
    spent = _microseconds(made.values.get("times"))
    return (
        made.take("name", f.text(), "unnamed"), *(None if value is None else float(value) for value in numbers),
        target, cached, None if spent is None else spent * 1e3, made.take("hash", f.text(), "")[:12],
    )  # fmt: skip


def _microseconds(times: Any) -> float | None:
    """Of compiling: the sum over the steps of Triton's "times"; None where they are not as it writes them."""
    try:
        found = Fields(times)
        steps = [found.take("ir_initialization", _NUMBER), found.take("store_results", _NUMBER)]
        for step in found.take("lowering_stages", f.list_of(f.list_of(f.any_value))):
            _NUMBER(step[-1])
            steps.append(step[-1])
    except (ValueError, IndexError):
        return None
    return float(sum(steps))


def _trials(session: Fields) -> tuple[Trial, ...]:
    timings = session.take("configs_timings", f.any_value, None)
    if timings is None:
        return ()
    return tuple(
        tuning_results.timed(config(text), [_middle(times)], 1e6)
        for text, times in Fields(timings, f"{session.where}/configs_timings").values.items()
    )


def _middle(times: Any) -> Any:
    """The middle of several times; whatever else stands there as it is."""
    if isinstance(times, list) and times and all(type(time) in (int, float) for time in times):
        return sorted(times)[len(times) // 2]
    return times


def config(text: str) -> Mapping[str, Any]:
    """The settings in "BLOCK: 64, num_warps: 4, maxnreg: None", without those that are None."""
    found: dict[str, list[str]] = {}
    for part in text.split(", "):
        name, named, value = part.partition(": ")
        if named:
            found[name] = [value]
        elif found:  # a value with a comma in it goes on
            found[next(reversed(found))].append(part)
    settings = {name: ", ".join(parts) for name, parts in found.items()}
    return {name: _value(value) for name, value in settings.items() if value != "None"} or {"config": text}


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            value = kind(text)
            f.scalar(value)
        except ValueError:
            continue
        return value
    return text


def _problem(session: Fields) -> str:
    kernel = session.take("kernel_name", f.maybe(f.text()), None) or "unnamed"
    key = re.sub(r"[^\w.]+", "_", session.take("autotune_key", f.maybe(f.text()), None) or "").strip("_")
    return f"triton:kernel={kernel}" + (f",key={key}" if key else "")[: 200 - len("triton:kernel=") - len(kernel)]


def _when(session: Fields) -> tuple[str | None, str | None]:
    """When a session began and ended, by the time of its event and how long it took; None if unknown."""
    # Until 0.6 at least a stamp ends in a format's "%fZ" and is the machine's own time, of a zone that no log names.
    stamp, duration = session.values.get("timestamp"), session.values.get("duration")
    ended = tuning_results.moments([stamp]) if isinstance(stamp, str) and "%f" not in stamp else ()
    if not ended or not isinstance(duration, int | float) or not 0 < duration < 1e7:
        return None, None
    began = datetime.fromisoformat(ended[0]) - timedelta(seconds=duration)
    return began.isoformat(), ended[0]


def _note(log: _Log, cached: int) -> str:
    notes = ["the file ends in the middle of an event"] if log.cut else []
    if cached:
        notes.append(f"{cached} session{'s' * (cached > 1)} of the autotuner measured nothing")
    return "; ".join(notes)


def _profile(path: Path, log: _Log, target: str, tables: tuple[ReportTable, ...], note: str) -> Profile:
    """Compilations and launches; the latter as kernels whose time is not known."""
    found = len(log.launches) or len(log.compilations)
    about = files.provenance(path, "tritonparse", NAME, found, found + 1 if log.cut else None, note, chip=target)
    launches = tuple(
        KernelLaunch(place, kernel or "unnamed", RowKind.SUMMARY, count=count)
        for place, (kernel, count) in enumerate(log.launches.items())
    )
    return Profile(about, launches, tables=tables)


def _tables(log: _Log) -> tuple[ReportTable, ...]:
    found = []
    if log.compilations:
        names, units = zip(*_COLUMNS, strict=True)
        found.append(ReportTable("compilation", "Kernels that Triton compiled", names, units, tuple(log.compilations)))
    if log.launches:
        rows: Sequence[tuple[float | str | None, ...]] = [(name, float(n)) for name, n in log.launches.most_common()]
        found.append(
            ReportTable("launch", "Launches of Triton's kernels", ("kernel", "launches"), ("", ""), tuple(rows))
        )
    return tuple(found)


IMPORTER = Importer(NAME, recognizes, read)
