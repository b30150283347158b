"""Helion's autotune log: one row for each configuration that was finished."""

import generators as make
import pytest
from importing import import_all, import_file

from autotune import UserError
from autotune.importers import helion_log
from tuning_db import profiles


def test_configurations_times_and_failures(tmp_path, db):
    path = make.helion_csv(tmp_path / "softmax.csv")
    summary = import_file(path, db)
    trials = profiles.load(db, summary.profile).launches
    assert [t.config["block_sizes"] for t in trials] == [[2, 64], [4, 64], [8, 64], [16, 64]]
    assert trials[0].config == {"block_sizes": [2, 64], "num_warps": 1, "pid_type": "flat"}
    assert [t.duration_ns for t in trials] == pytest.approx([1e5, 2e5, None, 4e5])
    assert [t.metrics.texts["status"] for t in trials] == ["ok", "ok", "error", "ok"]
    assert {t.kernel for t in trials} == {"softmax"} and not profiles.load(db, summary.profile).provenance.partial


def test_started_and_never_finished_is_partial(tmp_path):
    path = make.helion_csv(tmp_path / "log.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    (profile,) = helion_log.read(path)
    about = profile.provenance
    assert (about.found, about.expected) == (3, 4) and "1 configuration was started" in about.note


def test_the_older_columns(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "timestamp_s,config_index,generation,status,perf_ms,compile_time_s,config\n"
        "0.1,7,0,started,,,Config(num_warps=8)\n0.2,7,0,ok,0.5,0.1,Config(num_warps=8)\n"
        "0.3,7,1,ok,0.25,0.1,Config(num_warps=8)\n"
    )
    (profile,) = helion_log.read(path)
    (trial,) = profile.launches
    assert trial.config == {"num_warps": 8} and trial.duration_ns == 0.25e6


@pytest.mark.parametrize("text", ["Config(", "__import__('os').system('true')", "f(x)(y=1)", "[" * 500, "Config(a=b)"])
def test_a_configuration_is_never_executed(text):
    assert helion_log.config(text) in ({"config": text}, {}, {"y": 1})


def test_a_log_of_nothing_is_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("timestamp_s,config_index,generation,status,perf_ms,compile_time_s,config\n")
    with pytest.raises(UserError, match="has no finished configuration"):
        helion_log.read(path)


def test_every_run_in_a_log_is_a_profile_of_its_own(tmp_path, db):
    path = tmp_path / "softmax.csv"
    path.write_text(
        "run_id,timestamp_s,config_id,generation,status,perf_ms,compile_time_s,config\n"
        "a,0.1,c1,0,started,,,Config(num_warps=8)\nb,0.1,c1,0,started,,,Config(num_warps=4)\n"
        "a,0.2,c1,0,ok,0.5,0.1,Config(num_warps=8)\nb,0.3,c1,0,ok,0.25,0.1,Config(num_warps=4)\n"
        "b,0.4,c2,0,ok,0.75,0.1,Config(num_warps=2)\nunfinished,0.5,c1,0,started,,,Config(num_warps=1)\n"
    )
    for _ in range(2):  # importing again replaces both
        summaries = import_all(path, db)
        assert [summary.found for summary in summaries] == [1, 2]
    stored = [profiles.load(db, one.id) for one in profiles.listed(db)]
    assert [[x.duration_ns for x in profile.launches] for profile in stored] == [[5e5], [2.5e5, 7.5e5]]
    assert [p.provenance.format for p in stored] == ["Helion autotune log, run a", "Helion autotune log, run b"]
