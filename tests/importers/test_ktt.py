"""Results of the Kernel Tuning Toolkit: one run for each kernel of a file."""

import json

import pytest
from importing import import_all

from autotune import UserError
from autotune.importers import ktt, registry
from tuning_db.records import Outcome


def result(kernel, tile, status="Ok", duration=12.5):
    pairs = [{"Name": "TILE", "Value": tile, "ValueType": "UnsignedInt"}, {"Name": "FAST", "Value": True}]
    return {"KernelName": kernel, "Status": status, "TotalDuration": duration, "Configuration": pairs}


def document(*results, unit="Microseconds"):
    about = {"ComputeApi": "CUDA", "Device": "NVIDIA A100", "KttVersion": "2.1", "TimeUnit": unit}
    return {"Metadata": about, "Results": list(results)}


RESULTS = document(
    result("mul", 16), result("mul", 32, "CompilationFailed", 0), result("mul", 64, "ValidationFailed"),
    result("add", 16, duration=2.0),
)  # fmt: skip


@pytest.mark.parametrize("indent", [None, 4])
def test_each_kernel_is_a_run(tmp_path, db, indent):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(RESULTS, indent=indent))
    assert registry.recognize(path) is ktt.IMPORTER
    mul, add = import_all(path, db)
    assert (mul.problem, mul.found, mul.failed, mul.device) == ("ktt:kernel=mul", 3, 2, "NVIDIA A100")
    assert (add.problem, add.found, add.failed) == ("ktt:kernel=add", 1, 0)
    trials = db.trials(mul.run)
    assert [t.outcome for t in trials] == [Outcome.OK, Outcome.FAILED_TO_COMPILE, Outcome.WRONG]
    assert trials[0].measurement.median_ns == 12500 and trials[0].config == {"TILE": 16, "FAST": True}


@pytest.mark.parametrize(("unit", "factor"), [("Nanoseconds", 1), ("Milliseconds", 1e6), ("Seconds", 1e9)])
def test_units(tmp_path, unit, factor):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document(result("mul", 16), unit=unit)))
    (run,) = ktt.read(path)
    assert run.trials[0].measurement.median_ns == 12.5 * factor


@pytest.mark.parametrize("made", [document(), document(result("mul", 16), unit="Furlongs")])
def test_what_cannot_be_read_is_one_line(tmp_path, made):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"has no results|no unit of time"):
        ktt.read(path)


@pytest.mark.parametrize("time", [None, "fast", -3.0, 0, [], 1.7976931348623157e308], ids=repr)
def test_what_is_no_time_is_a_failed_configuration(tmp_path, time):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document(result("mul", 16), result("mul", 32, duration=time))))
    (run,) = ktt.read(path)
    good, bad = run.trials
    assert good.measurement.median_ns == 12500
    assert (bad.outcome, bad.measurement) == (Outcome.CRASHED, None) and bad.message.startswith("failed: ")


def test_a_result_without_a_time_failed(tmp_path):
    lacking = result("mul", 32)
    del lacking["TotalDuration"]
    path = tmp_path / "out.json"
    path.write_text(json.dumps(document(result("mul", 16), lacking)))
    assert [trial.outcome for trial in ktt.read(path)[0].trials] == [Outcome.OK, Outcome.CRASHED]
