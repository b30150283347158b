"""The transfer benchmark's flow, with a stand-in for the GPU: cold, warm, and the table."""

import importlib.util
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "autotune"))

import fake_gpu  # noqa: E402
from fake_gpu import DEVICE, Part  # noqa: E402

from autotune.runner.worker_pool import WorkerPool  # noqa: E402
from autotune.tuning import parallel  # noqa: E402
from autotune.tuning.tuner_base import Session, TuneSettings  # noqa: E402
from kernel_templates.device import Device  # noqa: E402
from tuning_db import open_db  # noqa: E402


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path))
    fake_gpu.install(monkeypatch)
    spec = importlib.util.spec_from_file_location("bench_transfer", ROOT / "scripts" / "bench_transfer.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_transfer", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pool(bench, monkeypatch):
    """One pool for all searches: most of their time would be its processes' beginning."""
    target = fake_gpu.target(DEVICE, compilers=1)
    with WorkerPool(target.compilers, target.separate_measurer, target.program) as opened:
        monkeypatch.setattr(bench, "WorkerPool", lambda *_: nullcontext(opened))
        yield opened


def test_records_of_another_chip_and_shape_save_evaluations(bench, pool, tmp_path) -> None:
    other = Device("cuda", "Other 200", "9.0", 132, 96 << 30)
    target, settings = fake_gpu.target(other), TuneSettings(sampler="exhaustive")
    with open_db(tmp_path / "other.db") as db:
        parallel.tune({Part("out", 64): 1}, Session(target, db, pool, settings))
    here = fake_gpu.target(DEVICE, compilers=1)  # candidates come in the order they were proposed
    # To the end of the space: how much is known when the next one is proposed depends on how busy the machine is, so of
    # a few evaluations a cold search might by luck find what the wide problem's search had missed.
    whole = fake_gpu.space(Part("ffn", 2560)).configs()
    document = bench.run(
        here, [tmp_path / "other.db"], len(whole), [0], 4, [Part("ffn", 4096)], {"4096 to 2560": [Part("ffn", 2560)]}
    )
    assert [r["kind"] for r in document["rows"]] == ["chip", "4096 to 2560"]
    assert document["records_from"] == ["Other 200"]
    chip, shape = document["rows"]
    assert (chip["began_with"], shape["began_with"]) == ("nearest chip", "nearest shape on this chip")
    # The default is tried first, what is known elsewhere right after it.
    for row in (chip, shape):
        assert row["warm_evaluations"] <= 3 and row["cold_trials"] == row["warm_trials"] == len(whole)
        assert row["warm_best_us"] == row["cold_best_us"] == 1.0
    assert document["summary"]["chip"]["reached"]
    assert bench.from_shape(here, [Part("ffn", 4096)], {}, len(whole), 0) == []
    json.dumps(document)


def test_the_real_shapes_can_be_tuned(bench) -> None:
    """On a GPU that is not there: every problem has a space, and both widths are of one family each."""
    from kernel_templates import registry
    from tuning_db import keys

    h100 = Device("cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 85017493504)
    pairs = [pair for width in bench.NARROW for pair in zip(bench.shapes(bench.WIDE), bench.shapes(width), strict=True)]
    for wide, narrow in pairs:
        assert registry.cuda_space(narrow, h100).default and registry.parse_problem(wide.key) == wide
        assert keys.distance(keys.parse(wide.key), keys.parse(narrow.key)) > 0
