"""The same launches through every format of Nsight Compute: the same names, the same values, the same findings."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from autotune.importers import ncu_csv, ncu_rep
from autotune.profiling import diagnosis
from tuning_db.profile_records import KernelLaunch, Metrics

pytest.importorskip("ncu_report", reason="needs NVIDIA's package ncu-report")
# A report has these for each instruction only; the raw page prints their sum.
OF_INSTRUCTIONS = {
    "sass__inst_executed_register_spilling_mem_local",
    "sass__inst_executed_register_spilling_mem_shared",
}
LABELLED = ": "  # in the name of a metric that only the details page has


@pytest.fixture(scope="module")
def report(recorded):
    return ncu_rep.read(recorded("small.ncu-rep")).launches


def metrics_csv(raw: str) -> str:
    """A raw page as `ncu --csv --metrics` prints it: a row for each metric, between what the profiler says."""
    header, units, *rows = csv.reader(io.StringIO(raw))
    describing = [place for place, name in enumerate(header) if name in ncu_csv.DESCRIBING]
    out = io.StringIO()
    table = csv.writer(out, quoting=csv.QUOTE_ALL)
    out.write('==PROF== Connected to process 1 (app)\n==PROF== Profiling "rows" - 0: 0%....50%....100% - 9 passes\n')
    table.writerow(
        [header[place] for place in describing] + ["Section Name", "Metric Name", "Metric Unit", "Metric Value"]
    )
    for row in rows:
        for place, name in enumerate(header):
            if place not in describing:
                what = ["Command line profiler metrics", name, units[place], row[place] or "n/a"]
                table.writerow([row[at] for at in describing] + what)
    out.write("==PROF== Disconnected from process 1\n")
    return out.getvalue()


@pytest.fixture(scope="module", params=["raw", "base", "metrics", "details"])
def table(request, recorded, tmp_path_factory):
    if request.param != "metrics":
        return ncu_csv.read(recorded(f"small.{request.param}.csv")).launches
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    path.write_text(metrics_csv(recorded("small.raw.csv").read_text()))
    return ncu_csv.read(path).launches


def restricted(launch: KernelLaunch, names) -> Metrics:
    """Those of its metrics."""
    kept = np.array([name in names for name in launch.metrics.columns.names])
    texts = {name: text for name, text in launch.metrics.texts.items() if name in names}
    return Metrics(launch.metrics.columns, np.where(kept, launch.metrics.numbers, np.nan), texts)


def test_names(report, table):
    for one, other in zip(report, table, strict=True):
        assert (one.kernel, one.grid, one.block, one.stream) == (other.kernel, other.grid, other.block, other.stream)
        names = {name for name in other.metrics if LABELLED not in name}
        if len(names) > 1000:
            assert names - OF_INSTRUCTIONS == set(one.metrics)
        else:  # the details page has a choice
            assert len(names) > 80 and names <= set(one.metrics)


def test_values_but_for_what_is_rounded(report, table):
    for one, other in zip(report, table, strict=True):
        for name in one.metrics.keys() & other.metrics.keys():
            exact, printed = one.metrics[name], other.metrics[name]
            assert exact.unit == printed.unit or "" in (exact.unit, printed.unit), name  # one of them has none
            if isinstance(exact.value, str):
                assert exact.value == printed.value, name
            else:
                assert printed.value == pytest.approx(exact.value, rel=0.00501, abs=0.00501), name
        assert other.duration_ns == pytest.approx(one.duration_ns, rel=0.005)


def test_findings(report, table):
    """Ours of all metrics that both have; the tool's own, where the format has them."""

    def told(launches):
        return [
            [(f.cause, pytest.approx(f.gain, abs=0.006)) for f in found if not f.source]
            for found in diagnosis.diagnose_all(launches)
        ]

    names = [set(other.metrics) for other in table]
    same = [replace(one, metrics=restricted(one, known)) for one, known in zip(report, names, strict=True)]
    assert told(table) == told(same) and any(told(same))
    if all(len(known) > 1000 for known in names):
        assert told(table) == told(report)
    for one, other in zip(report, table, strict=True):
        assert {f.text for f in other.findings} <= {f.text for f in one.findings}
