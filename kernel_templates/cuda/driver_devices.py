"""What the driver's own library says of a GPU: in a tenth of a second, where torch takes one to be imported."""

import ctypes
import importlib.util
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Numbers of cuda.h
MULTIPROCESSOR_COUNT, COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 16, 75, 76
NAME_BYTES = 256


@dataclass(frozen=True)
class DriverDevice:
    """A GPU; uuid: as torch writes it."""

    name: str
    capability: tuple[int, int]
    units: int
    memory_bytes: int
    uuid: str


def of(index: int) -> DriverDevice | None:
    """GPU `index` of those that CUDA_VISIBLE_DEVICES leaves; None where anything is not as it should be, which torch
    then finds too and has words for."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        return _asked(library, index)
    except (OSError, AttributeError, _Refused):
        return None


def torch_cuda() -> str | None:
    """The CUDA that torch is built for, such as "13.0", without importing torch; None where it has none, or is
    missing."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return None
    try:
        text = (Path(found.origin).parent / "version.py").read_text()
    except OSError:
        return None
    version = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)", text, re.MULTILINE)
    return version[1] if version else None


class _Refused(Exception):
    """The driver's library returned an error."""


def _asked(library: Any, index: int) -> DriverDevice | None:
    def call(function: str, *arguments: Any) -> None:
        if getattr(library, function)(*arguments):
            raise _Refused(function)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    built = torch_cuda()
    if built is None or version.value // 1000 < int(built.partition(".")[0]) or not 0 <= index < count.value:
        return None
    call("cuDeviceGet", ctypes.byref(device), index)
    name, size, number = ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t(), ctypes.create_string_buffer(16)
    call("cuDeviceGetName", name, NAME_BYTES, device)
    call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    call("cuDeviceGetUuid_v2", number, device)
    return DriverDevice(
        name.value.decode(), (attribute(COMPUTE_CAPABILITY_MAJOR), attribute(COMPUTE_CAPABILITY_MINOR)),
        attribute(MULTIPROCESSOR_COUNT), size.value, str(uuid.UUID(bytes=number.raw)),
    )  # fmt: skip
