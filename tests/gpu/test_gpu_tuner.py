"""The tuner on a real GPU: both stages on a small layer, candidates that break CUDA, and the roofs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.runner import ceilings
from autotune.runner.protocol import Measure, Measured, Open, Opened, Poisoned, Reply
from autotune.runner.worker_process import Worker, WorkerDied
from autotune.tuning import target, tune_model
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.layer.problem import Layer
from kernel_templates.matmul.problem import Matmul
from kernel_templates.matvec.problem import Matvec
from kernel_templates.paged_attention.problem import PagedAttention
from kernel_templates.space import Config, Space
from tuning_db import open_db
from tuning_db.records import Outcome, Source

pytestmark = pytest.mark.gpu

FORMATS = ["Q4_0"] * 7
LAYER = Layer(1024, 16, 8, 128, 128, 1, 3072, *FORMATS, "int16", 256)


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db") as opened:
        yield opened


def test_a_problem_alone(db) -> None:
    problem, device = Matvec(1024, 2048, "Q4_0"), machine.detect(0)
    (tuned,), _ = tune_model.tune({problem: 28}, [], db, target.cuda(0), TuneSettings(trials=12, budget_s=60.0))
    assert tuned.best_ns <= tuned.default_ns and 0.0 < tuned.share < 1.05
    answer = db.lookup(device, problem.key, problem.template_version)
    assert answer.source is Source.EXACT and answer.winner.error <= answer.winner.tolerance
    outcomes = [t.outcome for t in db.past_trials(device, problem.key, problem.template_version)]
    assert outcomes.count(Outcome.OK) + outcomes.count(Outcome.PRUNED) >= 10, outcomes
    print(f"{problem.key}: {tuned.default_ns / 1e3:.2f} -> {tuned.best_ns / 1e3:.2f} us, {tuned.gb_s:.0f} GB/s")


def test_both_stages(db) -> None:
    problems = dict.fromkeys(LAYER.parts().values(), 28)
    alone, (layer,) = tune_model.tune(problems, [LAYER], db, target.cuda(0), TuneSettings(budget_s=60.0))
    assert len(alone) == 4 and layer.best_ns <= layer.isolated_ns * 1.02
    assert layer.best_ns < sum(tuned.best_ns for tuned in alone) * 1.2  # chained kernels overlap
    answer = db.lookup(machine.detect(0), LAYER.key, LAYER.template_version)
    assert answer.source is Source.EXACT and answer.winner.config == dict(layer.config)
    print(
        f"layer {layer.default_ns / 1e3:.2f}, alone {layer.isolated_ns / 1e3:.2f}, tuned {layer.best_ns / 1e3:.2f} us"
    )


@pytest.mark.parametrize("tokens", [16, 256])
def test_every_algorithm_of_a_product_with_many_tokens(db, tokens: int) -> None:
    """Among them the library's, whose kernels are not ours: verified, captured, timed and compared all the same."""
    problem, device = Matmul(6144, 1024, "Q4_0", tokens), machine.detect(0)
    settings = TuneSettings(trials=24, budget_s=60.0, sampler="random")
    (tuned,), _ = tune_model.tune({}, [], db, target.cuda(0), settings, passes={problem: 28})
    trials = db.past_trials(device, problem.key, problem.template_version)
    worked = [t for t in trials if t.outcome is Outcome.OK]
    assert tuned.best_ns <= tuned.default_ns * 1.02 and len(worked) >= 5
    whole = registry.cuda_space(problem, device)
    library = next(config for config in whole.each() if config["algorithm"] == "library")
    parameters = tuple(replace(p, default=library[p.name]) for p in whole.parameters)
    chip = replace(target.cuda(0), space=lambda p: Space(parameters, whole.constraints))
    with open_db(db.path.with_name("library.db")) as other:
        (alone,), _ = tune_model.tune({problem: 1}, [], other, chip, TuneSettings(trials=1, budget_s=30.0))
    assert alone.config == library and alone.best_ns > 0
    print(f"{problem.key}: {tuned.best_ns / 1e3:.2f} us {dict(tuned.config)}, library {alone.best_ns / 1e3:.2f} us")


def test_a_pass_s_attention(db) -> None:
    problem = PagedAttention(8, 1, 16, 8, 128, 640)
    (tuned,), _ = tune_model.tune(
        {}, [], db, target.cuda(0), TuneSettings(trials=8, budget_s=60.0), passes={problem: 1}
    )
    assert 0 < tuned.best_ns <= tuned.default_ns * 1.02


def test_captures_of_a_device_share_a_stream() -> None:
    """So that cuBLAS keeps one workspace, not one for each candidate."""
    import torch

    from autotune.runner import gpu_timer

    x, y = torch.randn(64, 256, dtype=torch.float16, device="cuda"), torch.empty(64, 512, device="cuda")
    w = torch.randn(512, 256, dtype=torch.float16, device="cuda")

    def product() -> None:
        torch.mm(x, w.T, out_dtype=torch.float32, out=y)

    graphs = [gpu_timer.capture(product)]
    held = torch.cuda.memory_allocated()
    for _ in range(20):
        graphs.append(gpu_timer.capture(product))
    assert torch.cuda.memory_allocated() - held < 1 << 20
    y.zero_()
    graphs[-1].replay()
    torch.cuda.synchronize()
    assert torch.allclose(y, x.float() @ w.T.float(), atol=0.5)


def test_what_breaks_cuda_ends_only_its_worker() -> None:
    """The reply says so, the process ends, and the next request starts another in which all is well."""
    worker = Worker((sys.executable, str(Path(__file__).with_name("breaking_worker.py"))))
    problem = Matvec(256, 256, "Q4_0")
    config = registry.cuda_space(problem, machine.detect(0)).default

    def measure(**extra: bool) -> Reply:
        opened = worker.ask(Open("cuda:0", problem.key, 0, 132), 120)
        assert isinstance(opened, Opened), opened
        return worker.ask(Measure(Config({**config, **extra}), 3), 60)

    try:
        assert isinstance(measure(), Measured)
        broken = measure(**{"break": True})
        assert isinstance(broken, Poisoned), broken
        with pytest.raises(WorkerDied):
            worker.reply(20)
        assert isinstance(measure(), Measured)
    finally:
        worker.stop()


def test_the_driver_says_of_a_gpu_what_torch_says() -> None:
    code = """
import sys
from kernel_templates.cuda import machine
asked = machine.detect(0), machine.uuid(0)
assert "torch" not in sys.modules
import torch
print(asked == (machine.detect(0), machine.uuid(0)), asked, machine.detect(0), machine.uuid(0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("True "), done.stdout + done.stderr


def test_roofs(db) -> None:
    device = machine.detect(0)
    limits = ceilings.known_or_measured(db, device)
    assert 100.0 < limits["read_gb_s"] < 20_000.0 and 100.0 < limits["copy_gb_s"] < 20_000.0
    assert ceilings.known_or_measured(db, device) == limits
    print(limits)
