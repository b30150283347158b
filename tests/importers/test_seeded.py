"""Ten seeded slow kernels, profiled on an H100: the first finding names what is wrong with each."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.importers import ncu_rep
from autotune.profiling import diagnosis
from autotune.profiling.kernel_key import NEEDED
from tuning_db.profile_records import Columns, Metrics

pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
LABELS = json.loads((Path(__file__).resolve().parents[2] / "scripts" / "seeded" / "labels.json").read_text())


@pytest.fixture(scope="module")
def launches(recorded):
    """With what a caller knows beside the report: the bytes that a call has to move."""
    needed = json.loads(recorded("needed.json").read_text())
    profile = ncu_rep.read(recorded("seeded.ncu-rep"))
    columns = profile.launches[0].metrics.columns
    more = Columns((*columns.names, NEEDED), (*columns.units, "byte"))
    return [
        replace(x, metrics=Metrics(more, np.append(x.metrics.numbers, float(needed[x.kernel])), x.metrics.texts))
        for x in profile.launches
    ]


def test_the_first_finding_is_the_cause(launches):
    assert [x.kernel for x in launches] == list(LABELS)
    told = {x.kernel: found[0].cause for x, found in zip(launches, diagnosis.diagnose_all(launches), strict=True)}
    right = {LABELS[kernel] for kernel in LABELS if told[kernel] == LABELS[kernel]}
    wrong = {LABELS[kernel] for kernel in LABELS if told[kernel] != LABELS[kernel]}
    assert right - wrong == set(LABELS.values()), told


def test_every_finding_shows_its_metrics_and_a_possible_gain(launches):
    for found in diagnosis.diagnose_all(launches):
        assert [f.weight for f in found] == sorted((f.weight for f in found), reverse=True)
        for finding in (f for f in found if not f.source):
            assert finding.metrics and 0 <= finding.gain < 1 and finding.text.endswith(".")
            assert len({m.name for m in finding.metrics}) == len(finding.metrics)


def test_names_say_nothing(launches):
    """Renamed and shuffled, they are told all the same, but for the two that are known by their neighbours."""
    rename = {x.kernel: f"f{i}" for i, x in enumerate(reversed(launches))}
    for x in launches:
        if not LABELS[x.kernel].startswith("unfused"):
            assert diagnosis.diagnose(replace(x, kernel=rename[x.kernel]))[0].cause == LABELS[x.kernel]


def test_a_launch_without_metrics_has_no_findings(launches):
    assert diagnosis.diagnose(replace(launches[0], metrics=Metrics(), findings=())) == []


def test_the_reports_own_rules_are_ranked_and_marked(launches):
    found = diagnosis.diagnose(launches[4])
    theirs = [f for f in found if f.source]
    assert theirs[0].heading == "Small Grid (Nsight Compute's rule)" and theirs[0].gain == pytest.approx(
        0.985, abs=1e-3
    )
    assert found.index(theirs[0]) == 1
