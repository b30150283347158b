"""What NVML and the system say of a device, and how measurements are taken with it: retaken, refused, counted."""

from dataclasses import dataclass

import fake_nvml
import pytest

from autotune.runner.device_state import CpuWatch, GpuWatch, NoEnergy, joules_a_call
from autotune.runner.measurement_guard import RESIGNED, RETAKES, SLACK, ImpossibleTime, MeasurementGuard, cold_bytes
from tuning_db.records import Measurement

CALM = {"sm": 1980, "memory": 2619, "temperature": 41, "power": 290_000}


def watch(**answers) -> GpuWatch:
    return GpuWatch("1", fake_nvml.module(**{**CALM, "reasons": 0, **answers}))


@dataclass
class Candidate:
    cold_bytes: int = 0


class Probe:
    """Reads 1 GB at 1 TB/s, or as fast as told."""

    nbytes = 1_000_000_000

    def __init__(self, *seconds: float):
        self.left = list(seconds) or [1e-3]

    def seconds(self) -> float:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def timed(ns: float) -> Measurement:
    return Measurement(ns, ns, ns, 7)


def test_a_snapshot_says_what_the_driver_says() -> None:
    gpu = watch(sm=[345, 1980], reasons=[0x1, 0x4 | 0x20])
    before = gpu.read()
    assert before == {"sm_mhz": 345, "memory_mhz": 2619, "temperature_c": 41, "power_w": 290.0, "throttled": []}
    assert gpu.around(before, gpu.read()) == {
        "sm_mhz": [345, 1980], "memory_mhz": [2619, 2619], "temperature_c": [41, 41], "power_w": [290.0, 290.0],
        "throttled": ["power cap", "software thermal slowdown"],
    }  # fmt: skip


def test_what_a_device_lacks_is_left_out() -> None:
    gpu = watch(power=None, reasons=None)
    assert gpu.read() == {"sm_mhz": 1980, "memory_mhz": 2619, "temperature_c": 41} and gpu.joules() is None
    assert "throttled" not in gpu.around(gpu.read(), gpu.read())
    assert GpuWatch("other", fake_nvml.module(**CALM)).read() == {}
    older = fake_nvml.module(**CALM)
    older.nvmlDeviceGetCurrentClocksThrottleReasons = lambda _: 0x40
    assert GpuWatch("GPU-1", older).read()["throttled"] == ["hardware thermal slowdown"]


@pytest.mark.parametrize("reason", [0x0, 0x1, 0x2, 0x10, 0x100])
def test_idling_and_clocks_that_were_set_are_no_throttling(reason) -> None:
    assert watch(reasons=reason).read()["throttled"] == []


def test_a_throttled_sample_is_retaken() -> None:
    taken: list[int] = []
    rests: list[float] = []
    trust = MeasurementGuard(watch(reasons=[0, 0x4, 0, 0]), Probe, rests.append)
    (found,) = trust.take([Candidate()], lambda: taken.append(1) or [timed(10.0 * len(taken))])
    assert found.median_ns == 20.0 and found.state["retakes"] == 1 and found.state["throttled"] == []
    assert len(rests) == 1


def test_what_stays_throttled_is_recorded_so_and_in_the_end_not_retaken() -> None:
    taken: list[int] = []
    trust = MeasurementGuard(watch(reasons=0x40), Probe, lambda seconds: None)
    for number in range(RESIGNED + 3):
        (found,) = trust.take([Candidate()], lambda: taken.append(1) or [timed(10.0)])
        assert found.state["throttled"] == ["hardware thermal slowdown"]
        assert len(taken) == (RETAKES + 1) * min(number + 1, RESIGNED) + max(0, number + 1 - RESIGNED)


def test_nothing_is_faster_than_memory() -> None:
    trust, cold = MeasurementGuard(watch(), Probe), Candidate(1_000_000)  # 1 MB at 1 TB/s: 1 us
    assert trust.take([cold], lambda: [timed(1000.0 * SLACK + 1)])[0].samples == 7
    with pytest.raises(ImpossibleTime, match=r"0.50 µs for 1.00 MB from memory, which was read at 1000 GB/s"):
        trust.take([cold], lambda: [timed(500.0)])
    with pytest.raises(ImpossibleTime):
        trust.take([Candidate(0), cold], lambda: [timed(1.0), timed(500.0)])
    assert trust.take([Candidate(0)], lambda: [timed(1.0)])[0].median_ns == 1.0, "a cache may have held it"


def test_neither_a_slow_rate_nor_a_fast_time_is_believed_at_once() -> None:
    """While the rate was measured a neighbour was busy; or the clock jumped once."""
    trust = MeasurementGuard(watch(), lambda: Probe(*[5e-3] * 7, 1e-3))
    assert trust.take([Candidate(1_000_000)], lambda: [timed(900.0)])[0].median_ns == 900.0
    times = [timed(1.0), timed(900.0)]
    assert MeasurementGuard(watch(), Probe).take([Candidate(1_000_000)], lambda: [times.pop(0)])[0].median_ns == 900.0
    slow = MeasurementGuard(watch(), lambda: Probe(*[5e-3] * 7, 1e-3))
    slow.take([Candidate(1_000_000)], lambda: [timed(9000.0)])
    with pytest.raises(ImpossibleTime):
        slow.take([Candidate(1_000_000)], lambda: [timed(100.0)])


@pytest.mark.parametrize(("call", "calls", "cache", "cold"), [
    (1 << 20, 64, 50 << 20, 0), (2 << 20, 64, 50 << 20, 2 << 20), (1 << 30, 4, 50 << 20, 1 << 30), (0, 64, 1, 0),
])  # fmt: skip
def test_what_is_cold(call, calls, cache, cold) -> None:
    assert cold_bytes(call, calls, cache) == cold


class Counter:
    """A GPU that takes `watts` and tells its joules only every `step_s`; running takes 5 ms for 1000 calls."""

    def __init__(self, watts: float, step_s: float):
        self.now, self._watts, self._step_s = 0.0, watts, step_s

    def run(self) -> int:
        self.now += 0.005
        return 1000

    def joules(self) -> float:
        return self._watts * self._step_s * int(self.now / self._step_s + 1e-9)


@pytest.mark.parametrize("step_s", [0.001, 0.02, 0.1])
def test_energy_is_counted_from_step_to_step(step_s) -> None:
    """300 W over 5 us a call are 1.5 mJ, however coarse the counter: half a second read blindly would be off by 20%."""
    gpu = Counter(300.0, step_s)
    assert joules_a_call(gpu, gpu.run, clock=lambda: gpu.now) == pytest.approx(1.5e-3, rel=0.012)
    assert gpu.now < 0.5 + 3 * max(step_s, 0.005)


def test_a_device_without_a_counter_or_with_one_that_stands_still() -> None:
    gpu = Counter(0.0, 0.1)
    with pytest.raises(NoEnergy, match="stands still"):
        joules_a_call(gpu, gpu.run, clock=lambda: gpu.now)
    with pytest.raises(NoEnergy, match="does not report"):
        joules_a_call(watch(), gpu.run)
    assert watch(energy=12_500).joules() == 12.5


def test_a_processor_says_what_it_can(tmp_path) -> None:
    cpu = CpuWatch()
    state = cpu.around(cpu.read(), cpu.read())
    assert set(state) <= {"mhz", "stolen", "throttled"} and cpu.joules() is None
    counter = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("4\n")
    cpu = CpuWatch(tmp_path)
    before = cpu.read()
    assert cpu.around(before, cpu.read())["throttled"] == []
    counter.write_text("5\n")
    assert cpu.around(before, cpu.read())["throttled"] == ["thermal"]
