"""T4 and T1 as other auto-tuners have them, Kernel Tuner's cache files, and what is done with damaged ones."""

import gzip
import importlib.util
import itertools
import json
import lzma
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from importing import import_file

from autotune import UserError
from autotune.importers import files, t1, t4
from autotune.importers import registry as importers
from kernel_templates import registry
from kernel_templates.device import Device
from tuning_db import open_db
from tuning_db.records import Measurement, Objective, Outcome, Run, RunStatus, Trial

H100 = Device("cuda", "NVIDIA H100", "9.0", 132, 80 << 30, (("driver", "1"),))


def official(name: str) -> dict:
    """A schema that Kernel Tuner carries; the package itself is not imported."""
    spec = importlib.util.find_spec("kernel_tuner")
    if spec is None:
        pytest.skip("needs the schemas of Kernel Tuner: pip install --no-deps kernel_tuner")
    return json.loads((Path(next(iter(spec.submodule_search_locations))) / "schema" / name).read_text())


times = st.floats(1.0, 1e12)
numbers = st.one_of(st.none(), st.floats(0, allow_nan=False))
states = st.one_of(st.none(), st.dictionaries(st.text(), st.lists(st.integers(0, 2000), max_size=2)))
measurements = st.builds(Measurement, times, times, times, st.integers(1, 10**6), states, st.one_of(st.none(), times))
trials = st.builds(
    Trial,
    config=st.dictionaries(st.text(min_size=1), st.one_of(st.integers(-(2**60), 2**60), st.text(), st.booleans())),
    outcome=st.sampled_from(Outcome),
    measurement=st.one_of(st.none(), measurements),
    compile_s=st.one_of(st.none(), st.floats(0, 1e6)),
    error=numbers,
    tolerance=numbers,
    message=st.one_of(st.none(), st.from_regex(r"[!-~]+( [!-~]+)*", fullmatch=True)),
).filter(lambda t: t.outcome is not Outcome.OK or t.measurement is not None)


@settings(max_examples=25)
@given(
    st.lists(trials, max_size=4, unique_by=lambda t: repr(sorted(t.config.items()))),
    st.sampled_from([s for s in RunStatus if s is not RunStatus.RUNNING]),
)
@example([Trial({"cache": 0}, Outcome.WRONG)], RunStatus.FINISHED)
def test_a_run_goes_out_and_comes_back_as_it_was(made: list[Trial], status: RunStatus) -> None:
    run = Run(
        "matvec:rows=8,cols=32,format=Q4_0,activation=int16", 3, "pool", 7, 99, 10, 20, {"commit": "abc"}, Objective.EDP
    )
    with tempfile.TemporaryDirectory() as folder:
        with open_db(Path(folder) / "a.db") as db:
            number = db.begin_run(H100, run)
            for trial in made:
                db.record_trial(number, trial)
            db.finish_run(number, status)
            (stored,), kept = db.runs(), db.trials(number)
        path = Path(folder) / "run.json.gz"
        path.write_bytes(gzip.compress(json.dumps(t4.document(stored, kept), allow_nan=False).encode()))
        assert importers.recognize(path) is t4.IMPORTER
        with open_db(Path(folder) / "b.db") as db:
            import_file(path, db)
            (again,) = db.runs()
            # An imported run is one of this database's own: it gets a new name.
            assert (
                db.trials(again.id) == t4.each_once(kept)
                and replace(again, uid=stored.uid) == stored
                and again.uid != stored.uid
            )


def test_what_is_written_is_valid_by_the_official_schemas() -> None:
    measured = Measurement(1.0, 2.0, 3.0, 7)
    made = [
        Trial({"a": 1}, Outcome.OK, measured, 0.5, 1e-3, 1e-2),
        Trial({"a": 2}, Outcome.WRONG, None, 0.5, math.inf, 1e-2, "relative error inf"),
        *(Trial({"a": 3}, outcome) for outcome in (Outcome.TIMED_OUT, Outcome.PRUNED, Outcome.CRASHED)),
    ]
    with tempfile.TemporaryDirectory() as folder, open_db(Path(folder) / "a.db") as db:
        number = db.add_run(H100, Run("x:a=1", 1, "pool", 0, 3, 0, 0), made, "finished", None, None)
        document = t4.document(db.runs()[0], db.trials(number))
    jsonschema.validate(document, official("T4/1.0.0/results-schema.json"))
    problem = registry.parse_problem("matvec:rows=64,cols=512,format=Q4_0,activation=int16")
    space = registry.cuda_space(problem, H100)
    jsonschema.validate(t1.space_document(problem, space, "cuda"), official("T1/1.0.0/input-schema.json"))


def test_a_described_space_is_exactly_ours() -> None:
    problem = registry.parse_problem("matvec:rows=64,cols=2048,format=Q4_0,activation=int16")
    space = registry.cuda_space(problem, H100)
    described = t1.space_document(problem, space, "cuda")["ConfigurationSpace"]
    names = [p["Name"] for p in described["TuningParameters"]]
    values = [eval(p["Values"], {}) for p in described["TuningParameters"]]
    conditions = [eval(f"lambda {','.join(c['Parameters'])}: {c['Expression']}") for c in described["Conditions"]]
    asked = [c["Parameters"] for c in described["Conditions"]]
    points = (dict(zip(names, point, strict=True)) for point in itertools.product(*values))
    kept = [p for p in points if all(c(*(p[n] for n in a)) for c, a in zip(conditions, asked, strict=True))]
    assert [dict(config) for config in space.configs()] == kept


CACHE = """{"device_name": "NVIDIA A100", "kernel_name": "gemm", "problem_size": [4096, 4096],
"tune_params_keys": ["x", "y"], "tune_params": {"x": [1, 2], "y": [3]}, "objective": "time",
"cache": {
"1,3": {"x": 1, "y": 3, "time": 2.0, "times": [1.9, 2.0, 2.1], "compile_time": 500.0},
"2,3": {"x": 2, "y": 3, "time": "CompilationFailedConfig"}"""


@pytest.mark.parametrize("end", ["", ",", "}\n}", "}}"])
def test_a_cache_of_kernel_tuner_is_read_closed_or_not(tmp_path, end) -> None:
    path = tmp_path / "cache.json"
    path.write_text(CACHE + end)
    assert importers.recognize(path).name == "Kernel Tuner's cache"
    with open_db(tmp_path / "t.db") as db:
        found = import_file(path, db)
        (stored,) = db.runs()
        worked, failed = db.trials(stored.id)
    assert (found.found, found.failed, found.device) == (2, 1, "NVIDIA A100")
    assert stored.run.problem == "kernel_tuner:kernel=gemm,size=4096x4096" and stored.device.chip == "NVIDIA A100"
    assert worked.config == {"x": 1, "y": 3} and worked.measurement.median_ns == pytest.approx(2e6)
    assert worked.compile_s == 0.5 and worked.measurement.samples == 3
    assert failed.outcome is Outcome.FAILED_TO_COMPILE and failed.measurement is None


FOREIGN = {
    "results": [
        {"configuration": {"a": 1}, "times": {"runtimes": [1.0, 3.0], "compilation": 20.0}, "invalidity": "correct",
         "correctness": 1, "objectives": ["time"], "measurements": [{"name": "time", "value": 2.0, "unit": "ms"}]},
        {"configuration": {"a": 2}, "times": {}, "invalidity": "correct", "correctness": 1, "objectives": ["time"],
         "measurements": [{"name": "time", "value": 5.0, "unit": "ms"}]},
        {"configuration": {"a": 3}, "times": {}, "invalidity": "timeout", "correctness": 1},
    ],
    "schema_version": "1.0.0", "metadata": {"timeunit": "milliseconds"},
}  # fmt: skip


def test_another_tuners_results_are_read(tmp_path) -> None:
    path = tmp_path / "gemm.json"
    path.write_text(json.dumps(FOREIGN))
    with open_db(tmp_path / "t.db") as db:
        found = import_file(path, db)
        first, second, third = db.trials(found.run)
    assert first.measurement.median_ns == pytest.approx(2e6) and first.compile_s == pytest.approx(0.02)
    assert second.measurement.median_ns == pytest.approx(5e6) and third.outcome is Outcome.TIMED_OUT


def damaged_files():
    good = json.dumps(FOREIGN)
    yield "cut.json", good[: len(good) // 2].encode()
    yield "list.json", b'{"results": [1, 2]}'
    yield "word.json", good.replace('"timeout"', '"tired"').encode()
    yield "unit.json", good.replace('"milliseconds"', '"fortnights"').encode()
    yield "ours.json", good.replace('"timeunit"', '"tool": "autotune", "timeunit"').encode()
    yield "cache.json", (CACHE.replace('"y": 3, "time": 2.0', '"time": 2.0')).encode()
    yield "keys.json", CACHE.replace('"tune_params_keys": ["x", "y"]', '"tune_params_keys": 7').encode()
    yield "end.json.gz", gzip.compress(good.encode() + bytes(range(256)) * 400)[:-90]
    yield "foreign.json", b'{"hello": "world"}'
    yield "binary", bytes(range(256))
    yield "empty", b""


@pytest.mark.parametrize(("name", "data"), list(damaged_files()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_damaged_file_is_one_line_and_leaves_nothing(tmp_path, name, data) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with open_db(tmp_path / "t.db") as db:
        with pytest.raises(UserError) as told:
            if import_file(path, db) is None:
                raise UserError("foreign")
        assert "\n" not in str(told.value) and db.runs() == []


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
@pytest.mark.parametrize("name", ["LARGEST_JSON", "LARGEST_TEXT"])
def test_what_a_file_unpacks_to_is_limited(tmp_path, monkeypatch, pack, name) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(pack(json.dumps(FOREIGN).encode() + b" " * 10_000))
    with open_db(tmp_path / "t.db") as db:
        monkeypatch.setattr(files, name, 5_000)
        if name == "LARGEST_TEXT" and path.stat().st_size > 5_000:
            return  # of a plain document LARGEST_JSON is the limit
        with pytest.raises(UserError, match="5,000 bytes"):
            import_file(path, db)
        monkeypatch.setattr(files, name, 20_000)
        assert import_file(path, db).found == 3


def test_a_csv_s_length_is_limited(tmp_path, monkeypatch) -> None:
    path = tmp_path / "f.csv"
    path.write_text("Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Strm,Name\n" * 9)
    monkeypatch.setattr(files, "LARGEST_TEXT", 500)
    with open_db(tmp_path / "t.db") as db, pytest.raises(UserError, match="larger than 500 bytes"):
        import_file(path, db)
