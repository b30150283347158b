"""Kernel Tuner's caches and the benchmark hub's T4 files as they are: failures, objectives, units, devices."""

import json

import pytest
from importing import import_file

from autotune import UserError
from autotune.importers import tuning_results
from tuning_db import open_db
from tuning_db.records import Outcome, RunStatus
from tuning_db.timed_trials import timed_trials

HEAD = {
    "device_name": "Some GPU", "kernel_name": "mul", "problem_size": 1024, "tune_params_keys": ["block"],
    "tune_params": {"block": [32, 64]},
}  # fmt: skip
GOOD = {"block": 32, "time": 2.0, "times": [2.0, 2.1, 1.9]}


def imported(tmp_path, document, indent=None):
    """(run, trials) of a file with this document."""
    path = tmp_path / "f.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=indent))
    with open_db(tmp_path / "t.db") as db:
        found = import_file(path, db)
        return next(run for run in db.runs() if run.id == found.run), db.trials(found.run)


def cache(*entries, **head):
    return {**HEAD, **head, "cache": {str(number): entry for number, entry in enumerate(entries)}}


@pytest.mark.parametrize("indent", [None, 0, 1, 4, 13, "\t"])
@pytest.mark.parametrize("open_end", [False, True])
def test_a_cache_is_the_same_however_it_is_indented(tmp_path, indent, open_end):
    text = json.dumps(cache(GOOD), indent=indent)
    if open_end:  # as it is while tuning goes on
        text = text.rstrip().removesuffix("}").rstrip().removesuffix("}").rstrip() + ",\n"
    _, (trial,) = imported(tmp_path, text)
    assert trial.measurement.median_ns == pytest.approx(2e6) and trial.measurement.samples == 3


def test_a_cache_without_entries(tmp_path):
    for text in (json.dumps(cache()), json.dumps(cache(), indent=4), json.dumps(cache())[:-2]):
        assert imported(tmp_path, text)[1] == []


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        ({"time": 1e20}, Outcome.CRASHED), ({"time": 1.7976931348623157e308}, Outcome.CRASHED),
        ({"time": 10**20}, Outcome.CRASHED), ({"time": 1e20, "times": [1e20, 1e20]}, Outcome.CRASHED),
        ({"time": "RuntimeFailedConfig", "times": [0.1]}, Outcome.CRASHED),
        ({"time": "CompilationFailedConfig"}, Outcome.FAILED_TO_COMPILE), ({"time": "InvalidConfig"}, Outcome.PRUNED),
        ({"__error__": "CompilationFailedConfig"}, Outcome.FAILED_TO_COMPILE),
        ({"time": float("nan")}, Outcome.CRASHED),
    ],
)  # fmt: skip
def test_failures_of_kernel_tuner(tmp_path, entry, outcome):
    _, (_, failed) = imported(tmp_path, cache(GOOD, {"block": 64, "compile_time": 500.0, **entry}))
    assert (failed.outcome, failed.measurement, failed.compile_s) == (outcome, None, 0.5)
    assert failed.message


NO_TIMES = [None, "soon", -1.0, 0, 0.0, [], {}, True, 1e19, float("-inf"), 10**30]


@pytest.mark.parametrize("time", NO_TIMES, ids=repr)
def test_what_is_no_time_is_a_failed_configuration(tmp_path, time):
    """One bad time in a cache, alone or among others, takes no other configuration along."""
    _, (good, *bad) = imported(
        tmp_path, cache(GOOD, {"block": 64, "time": time}, {"block": 96, "time": 1.0, "times": [1.0, time]})
    )
    assert good.outcome is Outcome.OK
    assert [(trial.outcome, trial.measurement) for trial in bad] == [(Outcome.CRASHED, None)] * 2
    assert all(trial.message.startswith("failed: ") for trial in bad)
    _, (good, bad) = imported(tmp_path, hub(result([2.0]), result([2.0, time])))
    assert (good.outcome, bad.outcome, bad.measurement) == (Outcome.OK, Outcome.CRASHED, None)


def test_a_configuration_without_a_time_failed(tmp_path):
    _, (good, bad) = imported(tmp_path, cache(GOOD, {"block": 64}))
    assert (good.outcome, bad.outcome, bad.message) == (Outcome.OK, Outcome.CRASHED, "failed: no time")


STAMPS = ["2024-05-01 10:00:00.250000+00:00", "2024-05-01T12:00:02+02:00", "2024-05-01 10:00:09"]


@pytest.mark.parametrize("kind", ["Kernel Tuner", "T4"])
def test_when_trials_ended_is_what_the_file_says(tmp_path, kind):
    if kind == "T4":
        document = hub(
            *({**result([2.0]), "configuration": {"block": n}, "timestamp": t} for n, t in enumerate(STAMPS))
        )
    else:
        document = cache(*({**GOOD, "timestamp": stamp} for stamp in STAMPS))
    run, _ = imported(tmp_path, document)
    assert (run.began_at, run.finished_at) == ("2024-05-01T10:00:00.250000+00:00", "2024-05-01T10:00:09+00:00")
    with open_db(tmp_path / "t.db") as db:
        assert [timed.created_at[17:19] for timed in timed_trials(db)] == ["00", "02", "09"]


@pytest.mark.parametrize(
    "stamps", [["", ""], [7, 8], ["2024-05-01", "soon"], ["0001-01-01", "0001-01-02"], STAMPS[:2][::-1]]
)
def test_a_start_that_is_not_known_is_not_that_of_the_import(tmp_path, stamps):
    run, _ = imported(tmp_path, cache(*({**GOOD, "timestamp": stamp} for stamp in stamps)))
    assert run.began_at is None
    (tmp_path / "t.db").unlink()


def test_a_copy_of_a_cache_that_ends_in_an_entry(tmp_path):
    """What is whole is read, and the note says what is not; wherever the file ends."""
    text = json.dumps(cache(GOOD, {**GOOD, "block": 64}, {**GOOD, "block": 96}), indent=1)
    third = text.index('"2": {')
    path = tmp_path / "f.json"
    for end in range(third + 6, text.rindex("]"), 7):
        path.write_text(text[:end])
        with open_db(tmp_path / f"{end}.db") as db:
            found = import_file(path, db)
            assert (found.found, found.note) == (2, "the file ends in the middle of an entry, which was left out")
            assert db.runs()[0].status is RunStatus.INTERRUPTED


@pytest.mark.parametrize("objective", ["GFLOP/s", "energy", ["energy", "time"], ["time"], "time", None])
def test_a_time_beside_another_objective_is_read(tmp_path, objective):
    entry = {**GOOD, "GFLOP/s": 7.0, "energy": 0.2}
    _, (trial,) = imported(tmp_path, cache(entry, **({} if objective is None else {"objective": objective})))
    assert trial.measurement.median_ns == pytest.approx(2e6)


@pytest.mark.parametrize("objective", ["score", ["score"], "GFLOP/s"])
def test_an_objective_that_is_no_time_is_never_read_as_one(tmp_path, objective):
    entry = {"block": 32, "score": -1.3, "scores": [-1.3], "GFLOP/s": 7.0, "benchmark_time": 1e6}
    name = objective if isinstance(objective, str) else objective[0]
    with pytest.raises(UserError, match=f"has results in '{name}', which is no time"):
        imported(tmp_path, cache(entry, objective=objective))


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_device_name_is_no_device(tmp_path, name):
    run, _ = imported(tmp_path, cache(GOOD, device_name=name))
    assert run.device.chip == "unnamed device of f.json"
    run, _ = imported(tmp_path, hub(result([2.0]), device_name=name))
    assert run.device.chip == "unnamed device of f.json"


def hub(*results, unit="miliseconds", **metadata):
    return {"metadata": {"timeunit": unit, **metadata}, "schema_version": "1.0.0", "results": list(results)}


def result(runtimes=None, value=2.0, name="time", unit="", invalidity="correct", **more):
    times = {"compilation": 100.0, "framework": 1.0, "search_algorithm": 0, "validation": 0}
    return {
        "timestamp": "", "configuration": {"block": 32},
        "times": times if runtimes is None else {**times, "runtimes": runtimes}, "invalidity": invalidity,
        "correctness": 1, "measurements": [{"name": name, "value": value, "unit": unit}], "objectives": [name], **more,
    }  # fmt: skip


def test_the_hubs_files(tmp_path):
    """Milliseconds as the hub spells them, words for failures, results without runtimes or with none in the list."""
    _, trials = imported(
        tmp_path,
        hub(
            result([2.0, 2.0, 2.1]), result(unit="miliseconds"), result([], unit="miliseconds"),
            result(value="RuntimeFailedConfig", invalidity="runtime"),
            result([], "CompilationFailedConfig", invalidity="compile"), result([0.1], "RuntimeFailedConfig"),
            result([1e20], 1e20), result(None, 1e20),
        ),
    )  # fmt: skip
    assert [trial.outcome for trial in trials] == [
        *[Outcome.OK] * 3, Outcome.CRASHED, Outcome.FAILED_TO_COMPILE, *[Outcome.CRASHED] * 3,
    ]  # fmt: skip
    assert [trial.measurement.median_ns for trial in trials[:3]] == pytest.approx([2e6] * 3)
    assert all(trial.measurement is None for trial in trials[3:]) and trials[0].compile_s == pytest.approx(0.1)


def test_a_result_without_times(tmp_path):
    bare = result(unit="us")
    del bare["times"]
    _, (trial,) = imported(tmp_path, hub(bare))
    assert trial.measurement.median_ns == pytest.approx(2000) and trial.compile_s is None


def test_a_score_of_the_hub_is_no_time(tmp_path):
    """Runtimes beside a score are how long the tuner took to find it."""
    with pytest.raises(UserError, match="has results in 'score', which is no time"):
        imported(tmp_path, hub(result([1639113.4], -1.295, "score")))
    with pytest.raises(UserError, match="has results in 'time', which is no time"):
        imported(tmp_path, hub(result([1.0], 7.0, "time", "GFLOP/s")))
    both = result([2.0], 7.0, "GFLOP/s")
    both["measurements"].append({"name": "time", "value": 2.0, "unit": "ms"})
    assert imported(tmp_path, hub(both))[1][0].measurement.median_ns == pytest.approx(2e6)


@pytest.mark.parametrize(
    ("word", "nanoseconds"),
    [
        ("milliseconds", 1e6), ("miliseconds", 1e6), ("Milliseconds", 1e6), ("millisecond", 1e6), ("ms", 1e6),
        ("us", 1e3), ("µs", 1e3), ("microseconds", 1e3), ("ns", 1.0), ("nanoseconds", 1.0), ("s", 1e9), ("sec", 1e9),
        ("seconds", 1e9), ("", None), ("fortnights", None), ("GFLOP/s", None), ("J", None), ("m", None),
    ],
)  # fmt: skip
def test_units_of_time(word, nanoseconds):
    assert tuning_results.nanoseconds_of(word) == nanoseconds
