"""Reads an .ncu-rep file with NVIDIA's library: `python -m autotune.importers.ncu_rep_reader REPORT DIR`.

A process of its own, because the library takes hundreds of megabytes, and a damaged file may take it down. It leaves in
DIR numbers.npy, float64 [launches, metrics], and report.json, everything else.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import ncu_report
import numpy as np
from ncu_report import IMetric

from autotune.importers import ncu_labels, units

WITH_LINES = 16  # launches whose instructions are read, a quarter of a second each
CHIP = "device__attribute_display_name"
EXECUTED = "inst_executed"
STALLS = "smsp__pcsamp_warps_issue_stalled_"
NOT_ISSUED = "_not_issued"
KINDS = {1: "ok", 2: "optimization", 3: "warning", 4: "error"}
NUMBERS = frozenset(
    {IMetric.ValueKind_FLOAT, IMetric.ValueKind_DOUBLE, IMetric.ValueKind_UINT32, IMetric.ValueKind_UINT64}
)


def main(report: Path, folder: Path) -> None:
    context = ncu_report.load_report(str(report))
    actions = [action for span in context for action in span]
    names, unit_of = _columns(actions)
    numbers = np.full((len(actions), len(names)), np.nan)
    places = {name: place for place, name in enumerate(names)}
    factors = [units.base(unit_of[name])[1] for name in names]
    launches = []
    sources: dict[str, str] = {}
    chips: dict[str, None] = {}  # in the order they are first seen
    for row, action in enumerate(actions):
        texts = _read(action, places, numbers[row])
        if chip := _text(action, CHIP):
            chips[chip] = None
        lines = _lines(action, sources) if row < WITH_LINES else []
        launches.append(
            {
                "kernel": action.name(ncu_report.IAction.NameBase_DEMANGLED) or action.name(),
                "graph": action.workload_type() == ncu_report.IAction.WorkloadType_GRAPH,
                "texts": texts,
                "ranges": _ranges(action),
                "findings": _findings(action),
                "lines": lines,
            }
        )
    numbers *= np.array(factors)
    np.save(folder / "numbers.npy", numbers)
    document = {
        "names": names, "units": [units.base(unit_of[name])[0] for name in names], "launches": launches,
        "sources": sources, "chip": ", ".join(chips),
    }  # fmt: skip
    # Bytes that are no text come from the library as surrogates, which nothing else could write.
    (folder / "report.json").write_bytes(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))


def _columns(actions: list[Any]) -> tuple[list[str], dict[str, str]]:
    """Names of the numeric metrics of any launch, in the order they are first seen, and their units."""
    unit_of: dict[str, str] = {}
    words: set[str] = set()
    for action in actions:
        for name in action.metric_names():
            if name in unit_of or name in words or ncu_labels.left_out(name):
                continue
            metric = action.metric_by_name(name)
            if metric.kind() in NUMBERS:
                unit_of[name] = metric.unit()
            else:
                words.add(name)
    return list(unit_of), unit_of


def _read(action: Any, places: dict[str, int], row: np.ndarray) -> dict[str, str]:
    """Fill a launch's row; the metrics that are words."""
    texts = {}
    by_name = action.metric_by_name
    for name in action.metric_names():
        if ncu_labels.left_out(name):
            continue
        metric = by_name(name)
        place = places.get(name)
        if place is None:
            if metric.kind() == IMetric.ValueKind_STRING and (text := metric.as_string()):
                texts[name] = text
        elif metric.has_value():
            row[place] = metric.as_double()
    return texts


def _text(action: Any, name: str) -> str:
    metric = action.metric_by_name(name)
    return metric.as_string() if metric is not None and metric.kind() == IMetric.ValueKind_STRING else ""


def _ranges(action: Any) -> list[list[str]]:
    """[domain, outermost name, ..., innermost] of each domain that has the launch in a range."""
    state = action.nvtx_state()
    if state is None:
        return []
    found = []
    for number in state.domains():
        domain = state.domain_by_id(number)
        names = [domain.push_pop_range(i).name() for i in range(len(domain.push_pop_ranges()))]
        if names:
            found.append([domain.name(), *names])
    return found


def _findings(action: Any) -> list[dict[str, Any]]:
    found = []
    for rule in action.rule_results_as_dicts():
        message = rule["rule_message"]
        speedup = rule.get("speedup_estimation")
        scope = None
        if speedup is not None:
            scope = "global" if speedup["type"] == ncu_report.SpeedupType_GLOBAL else "local"
        found.append(
            {
                "rule": rule["rule_identifier"],
                "section": rule["section_identifier"],
                "kind": KINDS.get(int(message["type"]), "ok"),
                "title": message["title"] or rule["name"],
                "text": plain(message["message"]),
                "gain": speedup["speedup"] if speedup else None,
                "gain_scope": scope,
                "focus": [[m["name"], m["value"]] for m in rule.get("focus_metrics", [])],
            }
        )
    return found


def plain(text: str) -> str:
    """A rule's message without the links that the tool's window makes of @url:NAME:ADDRESS@ and @section:ID:NAME@."""
    text = re.sub(r"@url:([^:@]*):([^@]*)@", r"\1 (\2)", text)
    return re.sub(r"@(?:section|sass):[^:@]*:([^@]*)@|@source:[^@]*:([^:@]*)@", lambda m: m[1] or m[2] or "", text)


JUMPS = re.compile(
    r"(?:@!?U?P\w+\s+)?(?:BRA|BRX|BSSY|BREAK|CALL|CAL|JMP|JMX|JCAL|RET|SSY|PBK|PCNT|PRET|LEPC|WARPSYNC)\b.*"
)


def relative(sass: str, first: int, last: int) -> str:
    """An instruction with the places in its own kernel that it jumps to counted from the kernel's start, as addresses
    are; first, last: addresses of the kernel's instructions."""
    if not JUMPS.match(sass.strip()):
        return sass

    def counted(found: re.Match[str]) -> str:
        place = int(found[0], 16)
        return f"{place - first:#06x}" if first <= place <= last else found[0]

    return re.sub(r"0x[0-9a-fA-F]+", counted, sass)


def _lines(action: Any, sources: dict[str, str]) -> list[dict[str, Any]]:
    """The machine instructions of a kernel in order that were counted or sampled, with counts and stalls at each. Warps
    that have ended are sampled behind the last instruction that runs."""
    executed = _at_addresses(action, EXECUTED)
    stalls = {
        name.removeprefix(STALLS): _at_addresses(action, name)
        for name in action.metric_names()
        if name.startswith(STALLS) and not name.endswith(NOT_ISSUED)
    }
    places = sorted(executed.keys() | {at for counts in stalls.values() for at, count in counts.items() if count})
    if not places:
        return []
    for name, text in action.source_files().items():
        sources.setdefault(name, text)
    first, last, lines = places[0], places[-1], []
    for address in places:
        where = action.source_info(address)
        here = {reason: int(counts[address]) for reason, counts in stalls.items() if counts.get(address)}
        lines.append(
            {
                "address": address - first,
                "sass": relative(action.sass_by_pc(address), first, last),
                "ptx": action.ptx_by_pc(address) or None,
                "file": where.file_name() if where else None,
                "line": where.line() if where else None,
                "executed": int(executed[address]) if address in executed else None,
                "stalls": here,
            }
        )
    return lines


def _at_addresses(action: Any, name: str) -> dict[int, float]:
    """Address -> value of a metric that was counted for every instruction."""
    metric = action.metric_by_name(name)
    if metric is None or not metric.has_correlation_ids():
        return {}
    addresses = metric.correlation_ids()
    return {addresses.as_uint64(i): metric.as_double(i) for i in range(metric.num_instances())}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
