"""A measured space as a T4 file, the machine code's facts beside every time, and back."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from screening.recording import Recording, Row, texts

from autotune.importers import files, t4
from autotune.screening.binary import Binary, Candidate, KernelResources
from autotune.screening.machine_code import Code
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db.records import Measurement, Outcome, Run, RunStatus, StoredRun, Trial


@dataclass(frozen=True)
class Measured:
    """ns: of each configuration, None where it failed; candidates: what was compiled of them, in the same order."""

    key: str
    device: Device
    work_bytes: int
    versions: Mapping[str, str]
    ns: Mapping[Config, float | None]
    candidates: tuple[Candidate, ...]


def write(path: Path, recording: Recording, run: Run, device: Device) -> None:
    """A complete recording as run 0 of a database that is not there."""
    code: dict[str, bytes] = {}
    for part in sorted(recording.path.parent.glob(f"{recording.path.stem}.*.xz")):
        code |= dict(texts(part))
    rows = list(recording.rows.values())
    stored = StoredRun(0, "", device, run, RunStatus.FINISHED, len(rows), "", None)
    document = t4.document(stored, [_trial(row) for row in rows])
    for result, row in zip(document["results"], rows, strict=True):
        if row.rematch_ns is not None:
            result["measurements"].append({"name": "rematch_ns", "value": row.rematch_ns, "unit": "ns"})
        if row.kernels:
            resources = [asdict(_binary(kernel, code).resources) for kernel in row.kernels]
            text = json.dumps(resources, separators=(",", ":"))
            result["measurements"].append({"name": "kernels", "value": text, "unit": ""})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _trial(row: Row) -> Trial:
    m = None
    if row.median_ns is not None:
        assert row.q10_ns is not None and row.q90_ns is not None and row.samples is not None
        m = Measurement(row.q10_ns, row.median_ns, row.q90_ns, row.samples)
    return Trial(row.config, Outcome(row.outcome), m, row.compile_s, row.error, None, row.message)


def _binary(kernel: Mapping[str, Any], code: Mapping[str, bytes]) -> Binary:
    about = {name: value for name, value in kernel.items() if name not in ("digest", "code_bytes")}
    return Binary(**{**about, "scalars": tuple(about["scalars"])}, text=code[kernel["digest"]])


def read(path: Path) -> Measured:
    document = json.loads(gzip.decompress(path.read_bytes()))
    metadata = document["metadata"]
    versions = tuple((name, version) for name, version in metadata["device"]["versions"])
    device = Device(**{**metadata["device"], "versions": versions})
    ns, candidates = {}, []
    for result in document["results"]:
        config = Config(result["configuration"])
        found = {entry["name"]: entry["value"] for entry in result["measurements"]}
        ns[config] = found.get("rematch_ns", found.get("median_ns"))
        kernels = tuple(
            KernelResources(**{**facts, "code": Code(**facts["code"])})
            for facts in json.loads(found.get("kernels", "[]"))
        )
        candidates.append(Candidate(config, kernels, None if kernels else found.get("message", "does not compile")))
    run = metadata["run"]
    return Measured(run["problem"], device, run["work_bytes"], run["versions"], ns, tuple(candidates))
