"""tritonparse's logs, made by hand in the shape of those that version 0.6 writes."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importing import import_all
from json_values import VALUES, places, put

from autotune import UserError
from autotune.importers import registry, tritonparse
from tuning_db import open_db, profiles
from tuning_db.records import Outcome

SMALL, LARGE = (
    "BLOCK: 64, num_warps: 4, num_ctas: 1, maxnreg: None",
    "BLOCK: 128, num_warps: 8, num_ctas: 1, maxnreg: None",
)
STAMP = "2026-05-01T10:00:09.%fZ"  # as version 0.6 writes it


def autotune_event(timings=None, **more):
    timings = {SMALL: [0.50, 0.49, 0.52], LARGE: [0.25, 0.24, 0.26]} if timings is None else timings
    return {
        "event_type": "autotune", "pid": 7, "kernel_name": "add", "cache_key": "00", "best_config": LARGE,
        "configs_timings": timings, "duration": 2.5, "cache_hit": False, "autotune_key": "(1000, 'torch.float32')",
        "stack": [], "timestamp": STAMP, **more,
    }  # fmt: skip


def compilation(**more):
    steps = [["ttir", 1000], ["cubin", 2000]]
    metadata = {
        "name": "add", "hash": "0123456789abcdef", "num_warps": 4, "num_stages": 3, "num_ctas": 1, "shared": 2048,
        "cache_hit": False, "target": {"backend": "cuda", "arch": 90, "warp_size": 32},
        "times": {"ir_initialization": 500, "lowering_stages": steps, "store_results": 500}, **more,
    }  # fmt: skip
    return {"event_type": "compilation", "pid": 7, "timestamp": STAMP, "payload": {"metadata": metadata}}


def launch(name="add"):
    return {"event_type": "launch", "pid": 7, "timestamp": STAMP, "name": name, "grid": [8], "stream": 0}


def written(tmp_path, *events, end="\n", name="log.ndjson"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(event) for event in events) + end)
    return path


def test_a_stamp_with_its_zone_is_a_time(tmp_path, db):
    path = written(tmp_path, autotune_event(timestamp="2026-05-01T12:00:09+02:00"))
    import_all(path, db)
    (stored,) = db.runs()
    assert (stored.began_at, stored.finished_at) == ("2026-05-01T10:00:06.500000+00:00", "2026-05-01T10:00:09+00:00")


def test_a_session_of_the_autotuner_is_a_run(tmp_path, db):
    path = written(tmp_path, compilation(), autotune_event(), launch(), launch(), launch("mul"))
    assert registry.recognize(path) is tritonparse.IMPORTER
    run, profile = import_all(path, db)
    assert (run.problem, run.found, run.failed) == ("triton:kernel=add,key=1000_torch.float32", 2, 0)
    assert run.device == "unnamed GPU, sm_90"
    first, second = db.trials(run.run)
    assert first.config == {"BLOCK": 64, "num_warps": 4, "num_ctas": 1}
    assert (first.measurement.median_ns, second.measurement.median_ns) == (500_000, 250_000)
    (stored,) = db.runs()
    assert stored.began_at is None  # it is of a zone that the log does not name
    kept = profiles.load(db, profile.profile)
    assert [(x.kernel, x.count, x.duration_ns) for x in kept.launches] == [("add", 2, None), ("mul", 1, None)]
    compiled, launched = kept.tables
    assert compiled.rows == (("add", 4.0, 3.0, 1.0, 2048.0, "sm_90", "no", 4e6, "0123456789ab"),)
    assert launched.rows == (("add", 2.0), ("mul", 1.0)) and kept.provenance.chip == "sm_90"


@pytest.mark.parametrize(
    ("times", "nanoseconds"),
    [([0.5, 0.4, 0.6], 5e5), ([0.4, 0.5, 0.9], 5e5), (0.5, 5e5), ([0.5], 5e5), ([float("inf")] * 3, None), (None, None),
     ([], None), ("fast", None), ([0.5, None, 0.6], None), (-1, None), (0, None)],
)  # fmt: skip
def test_times_of_a_configuration(tmp_path, times, nanoseconds):
    """Triton's quantiles and tritonparse's [min, mean, max]: the middle one; what did not run is a failed one."""
    (run,) = tritonparse.read(written(tmp_path, autotune_event({SMALL: times, LARGE: 0.25})))
    first, second = run.trials
    assert (first.measurement and first.measurement.median_ns) == nanoseconds
    assert first.outcome is (Outcome.CRASHED if nanoseconds is None else Outcome.OK)
    assert second.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("text", "config"),
    [
        (SMALL, {"BLOCK": 64, "num_warps": 4, "num_ctas": 1}),
        ("EVEN: True, layout: (1, 2), scale: 0.5", {"EVEN": True, "layout": "(1, 2)", "scale": 0.5}),
        ("name: a: b", {"name": "a: b"}),
        ("x: nan, y: 1" + "0" * 30, {"x": "nan", "y": 1e30}), ("nothing", {"config": "nothing"}), ("", {"config": ""}),
        ("maxnreg: None", {"config": "maxnreg: None"}),
    ],
)  # fmt: skip
def test_a_configuration_from_its_text(text, config):
    assert tritonparse.config(text) == config


def test_a_session_that_measured_nothing_is_said(tmp_path, db):
    path = written(tmp_path, autotune_event(), autotune_event({}, cache_hit=True))
    (run,) = import_all(path, db)
    assert run.note == "1 session of the autotuner measured nothing"


def test_a_parsed_log_has_the_same_runs(tmp_path, db):
    result = {
        "best_config": LARGE,
        "configs_timings": {SMALL: [0.5, 0.4, 0.6]},
        "benchmark_duration": 1.0,
        "cache_hit": False,
    }
    analysis = {"event_type": "autotune_analysis", "session_id": "s", "name": "add", "autotune_result": result}
    without = {**analysis, "autotune_result": None}
    path = tmp_path / "log_mapped.ndjson.gz"
    text = "\n".join(json.dumps(event, separators=(",", ":")) for event in (compilation(), without, analysis))
    # The writer packs each event by itself.
    path.write_bytes(b"".join(gzip.compress(line.encode()) for line in text.splitlines(keepends=True)))
    run, _ = import_all(path, db)
    assert (run.problem, run.found) == ("triton:kernel=add", 1)
    assert db.trials(run.run)[0].measurement.median_ns == 500_000


def test_a_log_that_is_cut(tmp_path, db):
    whole = written(tmp_path, autotune_event(), launch()).read_bytes()
    last = whole.index(b'{"event_type": "launch"')
    for end in range(last + 1, len(whole) - 2, 9):
        path = tmp_path / "cut.ndjson"
        path.write_bytes(whole[:end])
        (run,) = tritonparse.read(path)
        assert (len(run.trials), run.note) == (2, "the file ends in the middle of an event")
    path.write_bytes(whole[:40] + b"\n" + whole)
    with pytest.raises(UserError, match="is damaged in line 1"):
        tritonparse.read(path)


def test_a_log_without_kernels_is_refused(tmp_path):
    path = written(tmp_path, {"event_type": "ir_analysis", "ir_analysis": {}})
    with pytest.raises(UserError, match="TRITON_TRACE_LAUNCH"):
        tritonparse.read(path)


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    path = written(tmp_path, autotune_event())
    monkeypatch.setattr(tritonparse, "MOST_TRIALS", 1)
    with pytest.raises(UserError, match="more than 1 measured configurations"):
        tritonparse.read(path)
    monkeypatch.setattr(tritonparse, "LONGEST_LINE", 50)
    with pytest.raises(UserError, match="more than 50 bytes in line 1"):
        tritonparse.read(path)


LOG = {"events": [compilation(), autotune_event(), launch()]}


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(tmp_path, data):
    """Read, or refused in one line that leaves nothing."""
    changed = put(LOG, data.draw(st.sampled_from(list(places(LOG)))), data.draw(VALUES))
    events = changed.get("events") if isinstance(changed, dict) else None
    path = written(tmp_path, *(events if isinstance(events, list) else [events]))
    database = tmp_path / "t.db"
    database.unlink(missing_ok=True)
    with open_db(database) as db:
        try:
            found = import_all(path, db)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            assert not db.runs() and not profiles.listed(db)
        else:
            assert found
