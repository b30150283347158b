"""What a device did while something was timed: clocks, temperature, power, and whether it held itself back.

A watch has `read()`, a snapshot; `around(before, after)`, one JSON document of two snapshots; and `joules()`, a counter
of energy since some time, or None where the device has none. Sources: NVML's reference for a GPU, where every quantity
that one driver or chip lacks is left out; psutil and sysfs for a processor.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

Snapshot = Mapping[str, Any]

# NVML's clocks event reasons (nvml.h), those that make the chip slower than its clocks promise. An idle GPU, clocks
# that a user set, and a display's needs are none of them.
THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_CORE_TEMPERATURE = 0  # NVML_TEMPERATURE_GPU


class Watch(Protocol):
    """See above."""

    def read(self) -> Snapshot: ...

    def around(self, before: Snapshot, after: Snapshot) -> dict[str, Any]: ...

    def joules(self) -> float | None: ...


class GpuWatch:
    """A GPU through NVML. uuid: as torch gives it, with or without "GPU-" before it; nvml: the module, for tests."""

    def __init__(self, uuid: str, nvml: Any = None):
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml, self._handle = nvml, None
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlInit()
            names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
            for name in names:
                with contextlib.suppress(nvml.NVMLError):
                    self._handle = nvml.nvmlDeviceGetHandleByUUID(name)
                    break

    def read(self) -> Snapshot:
        """sm_mhz, memory_mhz, temperature_c, power_w, throttled (words); what the driver does not say is missing."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # the name that drivers before 535 know
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        power = self._ask("nvmlDeviceGetPowerUsage")
        found = {
            "sm_mhz": self._ask("nvmlDeviceGetClockInfo", _SM),
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", _MEMORY),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", _CORE_TEMPERATURE),
            "power_w": None if power is None else power / 1e3,
            "throttled": None if reasons is None else [word for bit, word in THROTTLES.items() if reasons & bit],
        }
        return {name: value for name, value in found.items() if value is not None}

    def around(self, before: Snapshot, after: Snapshot) -> dict[str, Any]:
        """Each quantity as [before, after]; `throttled`: every reason of either."""
        return _paired(before, after)

    def joules(self) -> float | None:
        """NVML counts millijoules since the driver was loaded, from Volta on."""
        counted = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if counted is None else counted / 1e3

    def _ask(self, function: str, *arguments: Any) -> Any:
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


class CpuWatch:
    """A processor: its clock, how much of its time went to others, and how often a core was slowed down for heat.

    `stolen`: the share that a hypervisor gave to other machines. psutil and sysfs say only some of it on some systems.
    """

    def __init__(self, cores: Path = Path("/sys/devices/system/cpu")):
        self._counters = sorted(cores.glob("cpu*/thermal_throttle/core_throttle_count"))

    def read(self) -> Snapshot:
        times, clock = psutil.cpu_times(), None
        with contextlib.suppress(OSError, NotImplementedError, AttributeError):
            clock = psutil.cpu_freq()
        found: dict[str, Any] = {"total_s": sum(times), "stolen_s": getattr(times, "steal", None)}
        found["mhz"] = round(clock.current) if clock and clock.current else None
        if self._counters:
            with contextlib.suppress(OSError, ValueError):
                found["slowed"] = sum(int(path.read_text()) for path in self._counters)
        return {name: value for name, value in found.items() if value is not None}

    def around(self, before: Snapshot, after: Snapshot) -> dict[str, Any]:
        """mhz as [before, after]; stolen: a share of the time; throttled: ["thermal"] if a core was slowed down."""
        state = _paired({n: before[n] for n in ("mhz",) if n in before}, after)
        passed = after["total_s"] - before["total_s"]
        if passed > 0 and "stolen_s" in before and "stolen_s" in after:
            state["stolen"] = round((after["stolen_s"] - before["stolen_s"]) / passed, 4)
        if "slowed" in before and "slowed" in after:
            state["throttled"] = ["thermal"] if after["slowed"] > before["slowed"] else []
        return state

    def joules(self) -> float | None:
        """Counters of packages are for root only on most systems, and of all that runs: none."""
        return None


def _paired(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    state = {n: [before[n], after[n]] for n in before if n in after and n != "throttled"}
    if "throttled" in before and "throttled" in after:
        state["throttled"] = sorted({*before["throttled"], *after["throttled"]})
    return state


class NoEnergy(Exception):
    """The device does not count energy, or its counter stands still; the message is one line."""


def joules_a_call(
    watch: Watch, run: Callable[[], int], least_s: float = 0.5, patience_s: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> float:  # fmt: skip
    """Energy of a call, idle power included: from one step of the counter to one at least `least_s` later.

    run: executes some milliseconds of calls, to their end, and says how many. The counter moves in steps of 10 to 100
    ms, so it is read between runs and only steps count: what is uncertain is one run of calls at either end. Raises
    NoEnergy."""
    last = watch.joules()
    if last is None:
        raise NoEnergy("the device does not report energy")
    first: tuple[float, float, int] | None = None  # when, joules, calls until then
    calls, moved = 0, clock()
    while True:
        calls += run()
        now, counted = clock(), watch.joules()
        if counted is None or now - moved > patience_s:
            raise NoEnergy("the device's energy counter stands still")
        if counted == last:
            continue
        last, moved = counted, now
        if first is None:
            first = (now, counted, calls)
        elif now - first[0] >= least_s:
            return (counted - first[1]) / (calls - first[2])
