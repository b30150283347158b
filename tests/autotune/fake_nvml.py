"""NVML without a GPU: the functions and the error that `autotune.runner.device_state` uses, answered from a script."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


def module(uuid: str = "GPU-1", **answers) -> SimpleNamespace:
    """answers: a value, a list to be given one after the other (its last stays), or None for "not supported", by name:
    sm, memory, temperature, power (milliwatts), reasons, energy (millijoules)."""
    left = {name: list(value) if isinstance(value, list) else [value] for name, value in answers.items()}

    def answer(name: str):
        values = left.get(name, [None])
        value = values.pop(0) if len(values) > 1 else values[0]
        if value is None:
            raise NVMLError("Not Supported")
        return value

    def handle(name: str) -> str:
        if name != uuid:
            raise NVMLError("Not Found")
        return name

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetClockInfo=lambda _, kind: answer({1: "sm", 2: "memory"}[kind]),
        nvmlDeviceGetTemperature=lambda _, sensor: answer("temperature"),
        nvmlDeviceGetPowerUsage=lambda _: answer("power"),
        nvmlDeviceGetCurrentClocksEventReasons=lambda _: answer("reasons"),
        nvmlDeviceGetTotalEnergyConsumption=lambda _: answer("energy"),
    )
