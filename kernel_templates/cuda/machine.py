"""The NVIDIA GPUs of this machine: whether kernels can run on them, and if not, why in one line; their Device.

Importing this starts no CUDA and no torch. What torch calls `cuda:0` counts here (CUDA_VISIBLE_DEVICES included); the
driver's own library, NVML, only says which driver it is, and why there is none.
"""

import importlib.util
import os
import sys
import warnings
from typing import TYPE_CHECKING

from kernel_templates.cuda import driver_devices, early
from kernel_templates.device import Device

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Target

OLDEST = (7, 0)  # Volta: Triton's oldest, and the first with int8 dot products everywhere
_CPU = "or use --device cpu"


class DeviceError(Exception):
    """A GPU cannot be used. The message is one line: what is wrong and what to do about it."""


def count() -> int:
    """How many GPUs torch sees; 0 without a driver or with a torch that has no CUDA."""
    import torch

    if torch.version.cuda is None:
        return 0
    with warnings.catch_warnings():  # a driver that is too old is warned about; `check` says it in one line
        warnings.simplefilter("ignore")
        return torch.cuda.device_count()


def check(index: int = 0) -> None:
    """Raise DeviceError unless kernels can be compiled for and run on GPU `index`. Starts CUDA."""
    import torch

    early.finish()
    if torch.version.cuda is None:
        raise DeviceError(f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch, {_CPU}")
    here = count()
    if here == 0:
        raise DeviceError(_why_none(torch.version.cuda))
    if not 0 <= index < here:
        names = "cuda:0" if here == 1 else f"cuda:0 to cuda:{here - 1}"
        raise DeviceError(f"there is no cuda:{index}; this machine has {names}")
    try:
        with warnings.catch_warnings():  # torch warns of GPUs it has no code for; ours comes from Triton
            warnings.simplefilter("ignore")
            torch.cuda.init()
            properties = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        raise DeviceError(
            explain(error) or f"CUDA does not start ({_first_line(error)}); check nvidia-smi, {_CPU}"
        ) from error
    if (properties.major, properties.minor) < OLDEST:
        have = f"{properties.major}.{properties.minor}"
        raise DeviceError(
            f"{properties.name} has compute capability {have}; the kernels need 7.0 (Volta) or newer, {_CPU}"
        )
    if importlib.util.find_spec("triton") is None:
        raise DeviceError(f"Triton is not installed; ./scripts/setup_env cuda, {_CPU}")


def detect(index: int = 0) -> Device:
    """GPU `index` as a Device; `units` are its streaming multiprocessors. Raises DeviceError.

    Where torch is not imported yet the driver is asked, and nothing is said of whether torch can use the GPU."""
    if (quick := _asked_of_driver(index)) is not None:
        return _device(quick.name, quick.capability, quick.units, quick.memory_bytes, driver_devices.torch_cuda())
    check(index)
    import torch

    found, cuda = torch.cuda.get_device_properties(index), torch.version.cuda
    return _device(found.name, (found.major, found.minor), found.multi_processor_count, found.total_memory, cuda)


def _device(chip: str, capability: tuple[int, int], units: int, memory_bytes: int, cuda: str | None) -> Device:
    major, minor = capability
    versions = (("cuda", str(cuda)), ("driver", _driver()), ("triton", _triton()))
    return Device("cuda", chip, f"{major}.{minor}", units, memory_bytes, versions)


def _asked_of_driver(index: int) -> driver_devices.DriverDevice | None:
    """What the driver says of a GPU that kernels can run on, as long as torch is not imported."""
    if "torch" in sys.modules or importlib.util.find_spec("triton") is None:
        return None
    found = driver_devices.of(index)
    return found if found is not None and found.capability >= OLDEST else None


def target(device: Device) -> "Target":
    """What kernels for this device may use."""
    from kernel_templates.cuda.launch import capability_target

    major, _, minor = device.capability.partition(".")
    return capability_target(10 * int(major) + int(minor))


def uuid(index: int = 0) -> str:
    """What tells GPU `index` from every other one, as torch writes it; "" where torch does not say."""
    if (quick := _asked_of_driver(index)) is not None:
        return quick.uuid
    import torch

    return str(getattr(torch.cuda.get_device_properties(index), "uuid", "")) if torch.cuda.is_available() else ""


def l2_bytes(index: int = 0) -> int:
    """Bytes of the second-level cache, the last one of a GPU; 64 MiB where torch does not say."""
    import torch

    return int(getattr(torch.cuda.get_device_properties(index), "L2_cache_size", 0)) or 64 << 20


def index_of(name: str) -> int:
    """2 for "cuda:2"; ValueError for what is no GPU's name."""
    backend, _, number = name.partition(":")
    if backend != "cuda" or not number.isdigit():
        raise ValueError(f"{name!r} is no GPU; they are called cuda:0, cuda:1 and so on")
    return int(number)


def explain(error: BaseException) -> str | None:
    """One line for an exception that says something about the GPU or its compiler; None for any other."""
    kind, text = type(error), _first_line(error)
    names = {c.__name__ for c in kind.__mro__}
    if isinstance(error, DeviceError):
        return text
    if "OutOfMemoryError" in names or "CUDA out of memory" in text or "CUDA error: out of memory" in text:
        return (
            "not enough GPU memory; choose a smaller model or a smaller --context, "
            "or end what else uses the GPU (nvidia-smi lists it)"
        )
    if "driver version is insufficient" in text or "driver on your system is too old" in text:
        return _too_old()
    if kind.__module__.startswith("triton") and names & {"CompilationError", "PTXASError", "OutOfResources"}:
        return (
            f"Triton could not compile a kernel for this GPU ({kind.__name__}: {text}); AUTOTUNE_DEBUG=1 shows it all"
        )
    return None


def _why_none(needed: str) -> str:
    """Why a torch built for CUDA `needed` sees no GPU."""
    listed, reason = _listed()
    if reason:
        return f"no NVIDIA driver answers ({reason}); install one or start this where the GPU is visible, {_CPU}"
    found = _driver_cuda()
    if found is not None and found[0] < int(needed.partition(".")[0]):
        return _too_old()
    if not listed:
        return "there is no NVIDIA GPU here, the driver lists none; use --device cpu"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU; unset it, {_CPU}"
    return f"the driver lists {listed[0]}, but torch cannot start CUDA on it; check nvidia-smi, {_CPU}"


def _too_old() -> str:
    import torch

    found = _driver_cuda()
    have = f" supports CUDA {found[0]}.{found[1]} and" if found else ""
    return (
        f"the NVIDIA driver {_driver()}{have} is too old for this torch (CUDA {torch.version.cuda}); "
        f"update the driver or install a torch for an older CUDA, {_CPU}"
    )


def _listed() -> tuple[list[str], str | None]:
    """Names of the GPUs that the driver lists, whatever torch sees; or NVML's reason why it does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], str(error)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles], None
    except pynvml.NVMLError as error:
        return [], str(error)
    finally:
        pynvml.nvmlShutdown()


def listed() -> tuple[list[str], str]:
    """Names of the GPUs that the driver lists, usable or not, and why there are none."""
    names, reason = _listed()
    return names, reason or "the driver lists none"


def _ask_nvml(function: str) -> str | int | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return getattr(pynvml, function)()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _driver() -> str:
    return str(_ask_nvml("nvmlSystemGetDriverVersion") or "unknown")


def _driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, as (major, minor)."""
    number = _ask_nvml("nvmlSystemGetCudaDriverVersion")
    return None if number is None else (int(number) // 1000, int(number) % 1000 // 10)


def _triton() -> str:
    from importlib.metadata import version

    return version("triton")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
