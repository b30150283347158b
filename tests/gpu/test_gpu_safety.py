"""On a real GPU: its state, its energy, the floor, writes beside buffers, candidates that break CUDA in a search."""

import itertools
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import breaking_worker
import pytest
import torch

from autotune.runner import device_lock
from autotune.runner.cuda_worker import CudaBackend
from autotune.runner.device_state import GpuWatch
from autotune.runner.measurement_guard import ImpossibleTime
from autotune.runner.protocol import Measure, Measured, Open
from autotune.runner.redzones import OutOfBounds, Redzones
from autotune.tuning import target, tune_model
from autotune.tuning.tuner_base import TuneSettings
from kernel_templates import registry
from kernel_templates.cuda import machine
from kernel_templates.layer.problem import Layer
from kernel_templates.matvec.problem import Matvec
from kernel_templates.space import Config
from tuning_db import open_db
from tuning_db.records import Objective, Outcome, TrialKind

pytestmark = pytest.mark.gpu

LARGE = Matvec(8192, 4096, "Q4_0")  # 19 MB: its copies are read from memory
SMALL = Matvec(256, 256, "Q4_0")  # 64 copies of 40 kB stay in the cache


@pytest.fixture
def db(tmp_path):
    with open_db(tmp_path / "t.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def measurer() -> CudaBackend:
    return CudaBackend(0)


def show(tuned) -> None:
    print(f"{tuned.default_uj:.0f} -> {tuned.best_uj:.0f} uJ, {tuned.default_ns:.0f} -> {tuned.best_ns:.0f} ns")


def default(problem) -> Config:
    return registry.cuda_space(problem, machine.detect(0)).default


def opened(measurer: CudaBackend, problem) -> CudaBackend:
    measurer.open(Open("cuda:0", problem.key, 0, 132))
    return measurer


def test_what_nvml_says() -> None:
    gpu = GpuWatch(machine.uuid(0))
    begun = time.perf_counter()
    state = [gpu.read() for _ in range(20)][-1]
    spent = (time.perf_counter() - begun) / 20
    assert state["sm_mhz"] > 0 and state["memory_mhz"] > 0 and 10 < state["temperature_c"] < 110, state
    assert 10 < state["power_w"] < 2000 and isinstance(state["throttled"], list)
    assert spent < 0.02, "a trial takes 20 ms and more"
    print(f"{state}; a snapshot takes {1e3 * spent:.2f} ms")


def test_how_the_energy_counter_moves(measurer) -> None:
    """What `joules_a_call` relies on: it grows under load, in steps shorter than its patience."""
    gpu, x = GpuWatch(machine.uuid(0)), torch.randn(4096, 4096, device="cuda")
    if gpu.joules() is None:
        pytest.skip("this GPU does not count its energy")
    steps, last, until = [], gpu.joules(), time.monotonic() + 2.0
    while time.monotonic() < until:
        x = (x @ x).clamp(-1, 1)
        torch.cuda.synchronize()
        if (now := gpu.joules()) != last:
            steps.append((time.monotonic(), now))
            last = now
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(steps)]
    assert len(gaps) > 4 and max(gaps) < 1.0 and all(b[1] > a[1] for a, b in itertools.pairwise(steps))
    power = (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0])
    print(f"steps of {1e3 * sorted(gaps)[len(gaps) // 2]:.0f} ms, {power:.0f} W on average")


def test_state_and_energy_of_a_measurement(measurer) -> None:
    reply = opened(measurer, LARGE).measure(Measure(default(LARGE), 7))
    assert isinstance(reply, Measured) and reply.measurement.energy_uj is None
    assert set(reply.measurement.state) >= {"sm_mhz", "memory_mhz", "temperature_c", "power_w", "throttled"}
    energies = [measurer.measure(Measure(default(LARGE), 7, energy=True)).measurement for _ in range(2)]
    watts = [m.energy_uj * 1e-6 / (m.median_ns * 1e-9) for m in energies]
    assert all(20 < w < 1500 for w in watts) and abs(watts[0] / watts[1] - 1) < 0.1, watts
    print(f"{energies[0].median_ns / 1e3:.2f} us, {[f'{m.energy_uj:.0f} uJ' for m in energies]}, {watts} W")


def test_the_floor(measurer) -> None:
    """A time that memory does not allow is refused; what a cache may have held is not."""
    # Four times the chip's cache: a call of a few microseconds is far from the roof, and its floor far from its time.
    matrix_bytes = 8192 * 4096 * 18 // 32
    rows = 8192 * max(1, -(-4 * machine.l2_bytes(0) // matrix_bytes))
    problem = replace(LARGE, rows=rows)
    with device_lock.measuring(target.identity("cuda:0"), "cuda:0"):
        large = opened(measurer, problem).problem.prepare(default(problem))
        honest = measurer._guard.take([large], lambda: [measurer.measure(Measure(default(problem), 7)).measurement])[0]
        assert large.cold_bytes > 0.9 * rows / 8192 * matrix_bytes
        for wrong in (0.1, 0.4):
            with pytest.raises(ImpossibleTime, match="a defect of the measurement"):
                measurer._guard.take([large], lambda w=wrong: [replace(honest, median_ns=w * honest.median_ns)])
    small = opened(measurer, SMALL).problem.prepare(default(SMALL))
    assert small.cold_bytes == 0 and isinstance(measurer.measure(Measure(default(SMALL), 7)), Measured)


@pytest.mark.parametrize("at", [-1, 1000])
def test_a_write_beside_a_buffer(at) -> None:
    fences = Redzones()
    inside = fences.tensor(torch.zeros(1000, device="cuda"))
    inside += 1.0
    fences.check()
    breaking_worker.wild[(1,)](inside, OFFSET=at)
    with pytest.raises(OutOfBounds):
        fences.check()


def test_energy_as_the_objective(db) -> None:
    where = replace(target.cuda(0), objective=Objective.ENERGY)
    (tuned,), _ = tune_model.tune({LARGE: 1}, [], db, where, TuneSettings(trials=6, budget_s=60.0))
    assert tuned.best_uj <= tuned.default_uj * 1.05, tuned
    winner = db.lookup(where.device, LARGE.key, LARGE.template_version).winner
    assert winner.measurement.energy_uj == tuned.best_uj and winner.measurement.state["sm_mhz"]
    assert db.runs()[0].run.objective is Objective.ENERGY
    show(tuned)


@pytest.mark.slow
def test_energy_in_context(db) -> None:
    layer = Layer(1024, 16, 8, 128, 128, 1, 3072, *["Q4_0"] * 7, "int16", 256)
    where = replace(target.cuda(0), objective=Objective.EDP)
    _, (tuned,) = tune_model.tune({}, [layer], db, where, TuneSettings(budget_s=45.0))
    assert tuned.best_uj and tuned.best_uj * tuned.best_ns <= tuned.default_uj * tuned.default_ns * 1.05
    show(tuned)


@pytest.mark.slow
def test_what_breaks_cuda_costs_one_trial_each(db, monkeypatch) -> None:
    """An illegal address, a kernel that spins, memory that is not there, a segfault, among candidates that work."""
    monkeypatch.setenv("BREAKING", default(LARGE).key)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    program = (sys.executable, str(Path(breaking_worker.__file__)))
    where = replace(target.cuda(0), program=program, compilers=4, measure_s=10.0)
    (tuned,), _ = tune_model.tune({LARGE: 1}, [], db, where, TuneSettings(trials=16, budget_s=None, sampler="random"))
    trials = [t for t in db.past_trials(where.device, LARGE.key, 1) if t.kind is TrialKind.SEARCH]
    assert len({Config(t.config) for t in trials}) == len(trials) == 16
    for trial in trials:
        kind = None if Config(trial.config) == default(LARGE) else breaking_worker.kind_of(Config(trial.config))
        wanted = breaking_worker.KINDS.get(kind or "", "ok")
        assert trial.outcome == wanted or trial.outcome is Outcome.FAILED_TO_COMPILE, (kind, trial)
    print(Counter((breaking_worker.kind_of(Config(t.config)), str(t.outcome)) for t in trials), f"{tuned.best_ns} ns")
