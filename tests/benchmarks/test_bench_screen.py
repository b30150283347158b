"""`scripts/bench_screen` from end to end, with real processes and a stand-in for the GPU."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import stand_in_gpu
from click.testing import CliRunner

from autotune.tuning import target
from autotune.tuning.target import TuneTarget

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = "matvec:rows=64,cols=512,format=Q4_0,activation=int16"


@pytest.fixture
def script(monkeypatch):
    """The script as a module, with one small space on a device that is not there."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("bench_screen", ROOT / "scripts" / "bench_screen.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from screening.spaces import Part

    part = Part(SMALL, ("stream", "early", "source", "ready"), SMALL.replace("=64", "=128"))
    monkeypatch.setattr(module, "PARTS", {"small": part})
    from kernel_templates import registry

    there = TuneTarget(
        "cuda:0", "sm90", stand_in_gpu.DEVICE, lambda p: registry.cuda_space(p, stand_in_gpu.DEVICE), target._work, 2,
        separate_measurer=True, program=stand_in_gpu.PROGRAM, identity=f"stand-in of {os.getpid()}",
    )  # fmt: skip
    monkeypatch.setattr(target, "of", lambda name: there)
    yield module
    for name in [n for n in sys.modules if n.partition(".")[0] in ("screening", "peer")]:
        del sys.modules[name]


def call(script, *words: object) -> str:
    done = CliRunner().invoke(script.main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_space_is_measured_to_the_end_and_goes_on_after_a_kill(script, tmp_path) -> None:
    from screening.recording import Recording, texts

    call(script, "measure", "--folder", tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["complete"] and about["device"]["chip"] == "Fake 100"
    rows = Recording(tmp_path, "small").rows
    space = script.PARTS["small"].space(stand_in_gpu.DEVICE)
    assert set(rows) == set(space.configs())
    for config, row in rows.items():
        failed = config["warps"] == 16 or (config["each"], config["warps"]) == (1, 8)
        assert (row.outcome != "ok") == failed and (row.median_ns is None) == failed
        assert failed or row.median_ns == stand_in_gpu.time_ns(config)
    assert sum(row.rematch_ns is not None for row in rows.values()) == 24
    digests = {kernel["digest"] for row in rows.values() for kernel in row.kernels}
    code = dict(texts(tmp_path / "small.0.xz"))
    assert set(code) == digests and len(digests) < sum(bool(row.kernels) for row in rows.values())

    lines = (tmp_path / "small.jsonl").read_text().splitlines()
    (tmp_path / "small.jsonl").write_text("\n".join([*lines[:10], lines[10][:20]]))
    (tmp_path / "small.0.xz").write_bytes((tmp_path / "small.0.xz").read_bytes()[:-40])
    list(texts(tmp_path / "small.0.xz"))
    call(script, "measure", "--folder", tmp_path)
    again = Recording(tmp_path, "small").rows
    assert {c: r.median_ns for c, r in again.items()} == {c: r.median_ns for c, r in rows.items()}


@pytest.mark.slow
def test_collected_judged_and_searched(script, tmp_path) -> None:
    from screening import space_files

    spaces, out = tmp_path / "spaces", tmp_path / "screen.json"
    call(script, "measure", "--folder", tmp_path / "work")
    call(script, "collect", "--folder", tmp_path / "work", "--out", spaces)
    measured = space_files.read(spaces / "small.t4.json.gz")
    assert measured.device == stand_in_gpu.DEVICE and len(measured.candidates) == len(measured.ns)
    for config, ns in measured.ns.items():
        failed = config["warps"] == 16 or (config["each"], config["warps"]) == (1, 8)
        assert ns == (None if failed else stand_in_gpu.time_ns(config))

    call(script, "judge", "--spaces", spaces, "--out", out)
    space = json.loads(out.read_text())["spaces"]["small"]
    assert space["screening"]["by"]["duplicate"] == sum(c["each"] == 8 and c["warps"] < 16 for c in measured.ns)
    assert space["screening"]["bound_above_time"] == 0 and space["screening"]["regret"] == 0.0
    found = space["search"]["found"]
    assert 1.0 <= found["60"]["mean"] <= found["20"]["mean"] <= found["20"]["p95"]

    words = ("--spaces", spaces, "--folder", tmp_path / "search", "--seeds", 1, "--cold", 3, "--warm", 2, "--out", out)
    monkey = script.RELATIVE_S
    script.RELATIVE_S = 1.5
    try:
        call(script, "search", *words)
        told = call(script, "search", *words)
    finally:
        script.RELATIVE_S = monkey
    assert "small cold" in told and "small warm" in told
    document = json.loads(out.read_text())
    cold, warm = document["searches"]["runs"]
    assert (cold["kind"], warm["kind"]) == ("cold", "warm") and "spaces" in document
    for run in (cold, warm):
        assert run["ns"] >= run["best_ns"] == min(ns for ns in measured.ns.values() if ns)
        assert run["evaluations"] > 0 and run["trace"][-1][1] >= run["best_ns"]
