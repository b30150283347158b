"""`autotune profile`: what it prints, keeps and refuses."""

import json
import lzma
import shlex
import stat
from dataclasses import replace
from pathlib import Path

import pytest

import kernel_templates
from autotune.commands import options
from autotune.importers import ncu_rep_library
from autotune.profiling import ncu, profile_problems, recording
from kernel_templates.device import Device
from kernel_templates.space import Config
from tuning_db import open_db, profiles
from tuning_db.profile_records import KernelLaunch, Profile, Provenance, SourceLine
from tuning_db.records import Measurement, Winner

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nsight"
MATVEC = "matvec:rows=576,cols=576,format=Q4_1,activation=int16"
H100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30)
CALLS = [recording.Call(MATVEC, Config({"rows": 8}), "default"), recording.Call(MATVEC, Config({"rows": 16}), "winner")]


def test_profile_refuses_what_it_cannot_do(complaint) -> None:
    assert "Nsight Compute profiles GPUs" in complaint("profile", MATVEC, "--device", "cpu")
    assert "cannot be used" in complaint("profile", MATVEC)


@pytest.fixture
def measured(monkeypatch):
    """The timing process stands in for a GPU; nothing else does."""
    rows = [
        {"problem": c.problem, "config": dict(c.config), "role": c.role, "q10_ns": 900.0, "median_ns": t,
         "q90_ns": 1200.0, "samples": 30, "bytes_needed": 200_000}
        for c, t in zip(CALLS, (1000.0, 800.0), strict=True)
    ]  # fmt: skip
    monkeypatch.setattr(recording, "timed", lambda *_: rows)


def stand_in(folder, script):
    """An `ncu` that behaves as the real one does when it fails."""
    path = folder / "ncu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "Nsight Compute (ncu) is not installed"),
        ("echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'; exit 1", "may not read the GPU's"),
        ("echo '==WARNING== No kernels were profiled.'", "it saw no kernels"),
        ("echo '==ERROR== something else'; exit 3", "it failed: ==ERROR== something else"),
        ("exit 9", "it failed with exit status 9"),
        ("true", "it wrote no report"),
    ],
)
def test_without_counters_there_are_times(tmp_path, monkeypatch, measured, script, why) -> None:
    found = None if script is None else stand_in(tmp_path, script)
    monkeypatch.setattr(ncu, "find", lambda: found)
    with open_db(tmp_path / "t.db") as db:
        done = profile_problems.profile(CALLS, H100, "cuda:0", db)
        assert why in done.failure
        (stored,) = profiles.listed(db)
        profile = profiles.load(db, stored.id)
    assert [(x.role, x.duration_ns) for x in profile.launches] == [("default", 1000.0), ("winner", 800.0)]
    assert profile.launches[0].metrics.number("autotune__bytes_needed") == 200_000
    assert profile.provenance.fingerprint == H100.fingerprint and profile.provenance.format == "measured"


def test_the_profilers_command_line(tmp_path) -> None:
    line = ncu.command(tmp_path / "ncu", tmp_path / "r.ncu-rep", ["python", "-m", "x"])
    assert line[1:7] == ["--clock-control", "none", "--profile-from-start", "off", "--nvtx", "--set"]
    assert line[-3:] == ["python", "-m", "x"] and line[line.index("--export") + 1] == str(tmp_path / "r.ncu-rep")


def test_a_profiler_that_hangs_is_ended(tmp_path) -> None:
    assert ncu.run([str(stand_in(tmp_path, "exec sleep 30"))], 0.2) == "it took more than 0 s"
    assert "does not start" in ncu.run([str(tmp_path / "none")], 1)


def told_times(calls, *_):
    """What the timing process would say: 1 µs with the default, 0.7 with a winner."""
    return [
        {"problem": c.problem, "config": dict(c.config), "role": c.role, "q10_ns": 0.99 * t, "median_ns": t,
         "q90_ns": 1.01 * t, "samples": 30, "bytes_needed": 200_000}
        for c in calls
        for t in [1000.0 if c.role == "default" else 700.0]
    ]  # fmt: skip


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """recorder(name): from now on Nsight Compute leaves what it recorded on an H100, an empty block behind it for each
    time before: no two recordings are the same bytes."""
    pytest.importorskip("ncu_report")
    report, times = lzma.decompress((FIXTURES / "small.ncu-rep.xz").read_bytes()), 0
    monkeypatch.setattr(recording, "timed", told_times)
    monkeypatch.setattr(options, "detect", lambda _: H100)

    def next_one():
        nonlocal times
        (tmp_path / "made.ncu-rep").write_bytes(report + times * bytes(4))
        times += 1
        script = (
            'while [ "$1" != --export ]; do shift; done; export=$2; for request; do :; done\n'
            f'cp {shlex.quote(str(tmp_path / "made.ncu-rep"))} "$export"\n'
            f"cp {shlex.quote(str(FIXTURES / 'small.kernels.json'))} "
            """"$(sed 's/.*"manifest": "\\([^"]*\\)".*/\\1/' "$request")\""""
        )
        monkeypatch.setattr(ncu, "find", lambda: stand_in(tmp_path, script))

    next_one()
    return next_one


NORM = json.loads((FIXTURES / "small.kernels.json").read_text())[0]["problem"]


def keep_a_winner(path: Path) -> None:
    config = json.loads((FIXTURES / "small.kernels.json").read_text())[-1]["config"]
    with open_db(path) as db:
        db.set_winner(H100, Winner(NORM, 1, config, Measurement(1.0, 1.0, 1.0, 30), 2.0, 0.0, 1.0), None, None)


def test_the_same_problem_before_and_after_tuning(autotune, own_database, recorder, tmp_path) -> None:
    first = autotune("profile", NORM, "--untuned", "--name", "before", "--report", tmp_path / "kept.ncu-rep")
    assert first.exit_code == 0, first.stderr
    assert "Since it was profiled last" not in first.stdout and "profile 2: before.ncu-rep, 4 rows" in first.stdout
    assert (tmp_path / "kept.ncu-rep").read_bytes() == (tmp_path / "made.ncu-rep").read_bytes()
    keep_a_winner(own_database)
    recorder()
    second = autotune("profile", NORM, NORM, "--name", "after")
    lines = [" ".join(line.split()) for line in second.stdout.splitlines()]
    assert f"{NORM} 1.00 0.70 0.700 better before" in lines, second.stdout
    assert lines[-1] == "What changed: autotune dashboard -o page.html, page Compare"
    recorder()
    document = json.loads(autotune("profile", NORM, "--untuned", "--json").stdout)
    (change,) = document["changes"]
    assert (change["since"], change["verdict"], change["before_ns"]) == ("after", "worse", 700.0)
    with open_db(own_database, readonly=True) as db:
        stored = [one.provenance for one in profiles.listed(db)]
    assert [one.file for one in stored] == [
        "times of before", "before.ncu-rep", "times of after", "after.ncu-rep",
        "times of profile of norm_qkv_rope", "profile of norm_qkv_rope.ncu-rep",
    ]  # fmt: skip
    assert all(one.recorded_at == other.recorded_at for one, other in zip(stored[::2], stored[1::2], strict=True))


def test_times_are_compared_on_one_chip_only(autotune, recorder, monkeypatch) -> None:
    autotune("profile", NORM)
    other = replace(H100, chip="NVIDIA H200")
    monkeypatch.setattr(options, "detect", lambda _: other)
    recorder()
    assert json.loads(autotune("profile", NORM, "--json").stdout)["changes"] == []


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 81])
def test_a_report_needs_a_name_that_pages_can_show(autotune, name) -> None:
    result = autotune("profile", NORM, "--name", name)
    assert result.exit_code == 2 and "give up to 80 letters in one line" in result.stderr


def test_a_report_is_not_written_over_a_database(complaint, filled, tmp_path) -> None:
    assert "is a database or a model" in complaint("profile", NORM, "--report", filled)
    nowhere = tmp_path / "none" / "r.ncu-rep"
    assert "is no folder that can be written to" in complaint("profile", NORM, "--report", nowhere)


def test_without_a_reader_the_report_is_kept_on_request(
    autotune, own_database, recorder, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(ncu_rep_library, "folders", lambda: None)
    result = autotune("profile", NORM)
    assert "NVIDIA's package ncu-report; ./scripts/setup_env nsight; --report FILE records" in result.stderr
    assert result.exit_code == 0 and not (tmp_path / "kept.ncu-rep").exists()
    result = autotune("profile", NORM, "--report", tmp_path / "kept.ncu-rep")
    assert f"Nsight Compute's report: {tmp_path / 'kept.ncu-rep'}" in result.stderr
    monkeypatch.undo()
    assert "4 rows" in autotune("import", tmp_path / "kept.ncu-rep", "--db", tmp_path / "other.db").stdout


def test_sources_of_a_copy_that_is_gone_are_those_of_this_one() -> None:
    """Compiled kernels are kept by what is in their sources, and name the files of the copy that compiled them."""
    names = ("/gone/kernel_templates/cuda/dot.py", "/gone/kernel_templates/none.py", "/triton/language/core.py", None)
    lines = tuple(SourceLine(16 * n, "NOP", None, name, 1) for n, name in enumerate(names))
    report = Profile(Provenance("r", "0" * 64, 1, "", ""), (KernelLaunch(0, "k", lines=lines),), (), {names[0]: ""})
    sources = profile_problems._with_sources(report).sources
    assert sources == {names[0]: (Path(kernel_templates.__file__).parent / "cuda" / "dot.py").read_text()}
    kept = replace(report, sources={names[0]: "as recorded"})
    assert profile_problems._with_sources(kept).sources == {names[0]: "as recorded"}
