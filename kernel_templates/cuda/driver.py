"""Loads cubins and launches their kernels through the driver's own library, as Triton's launchers do.

Triton compiles a C function for every signature of a kernel, with a C compiler in half a second each, and hashes
its own library before it finds them again. What they do is a page: an array of addresses of values, and one call.
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kernel_templates.cuda import ahead, kernel_cache, machine, signature
from kernel_templates.cuda.kernel_cache import CompiledKernel
from kernel_templates.cuda.signature import Signature

if TYPE_CHECKING:
    from kernel_templates.cuda.launch import Launch, Target

# Numbers of cuda.h
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
MAX_THREADS_PER_BLOCK, SHARED_SIZE_BYTES, MAX_DYNAMIC_SHARED_SIZE_BYTES = 0, 1, 8
CACHE_PREFER_SHARED = 1
PROGRAMMATIC_STREAM_SERIALIZATION = 6
INVALID_IMAGE, NO_BINARY_FOR_GPU, NOT_FOUND = 200, 209, 500  # said of code, and of a kernel's name in it

FREE_SHARED = 49152  # bytes of shared memory that a kernel may use without asking
WARP = 32
SCRATCH = 2  # pointers to scratch memory of Triton's own, which follow a kernel's parameters: none here


class UnusableCode(machine.DeviceError):
    """The driver does not take a kernel's machine code."""


class Attribute(ctypes.Structure):
    """CUlaunchAttribute, of whose union only a number is used."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_byte * 60))


class Configuration(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


@dataclass(frozen=True)
class Context:
    """A GPU's context: its address, the GPU's compute capability, and the most bytes of shared memory of a program."""

    address: int
    capability: int
    most_shared: int


class Call:
    """A launch made ready on the current GPU: its kernel is loaded, its arguments lie in memory."""

    def __init__(self, launch: "Launch", target: "Target") -> None:
        self.context = context()
        found = signature.of(launch, target)
        self._function, kernel = _loaded(launch, target, found, self.context)
        passed = [(launch.arguments[i], kind) for i, kind in found.passed]
        self._tensors = launch.arguments  # the addresses are theirs
        count = len(passed) + SCRATCH
        self._values = (ctypes.c_uint64 * count)(*(_bits(value, kind) for value, kind in passed))
        first = ctypes.addressof(self._values)
        self._addresses = (ctypes.c_void_p * count)(*range(first, first + 8 * count, 8))
        self._attribute = Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)
        beside = target.pdl and not launch.after_all
        x, y, z = (*launch.grid, 1, 1)[:3]
        self._empty = x * y * z == 0
        self._configuration = Configuration(
            x, y, z, WARP * kernel.warps, 1, 1, kernel.shared, None, ctypes.pointer(self._attribute), int(beside)
        )

    def __call__(self) -> None:
        """Start the kernel on torch's current stream."""
        if self._empty:
            return
        self._configuration.stream = torch._C._cuda_getCurrentRawStream(torch.cuda.current_device())
        _check(
            _library().cuLaunchKernelEx(
                ctypes.byref(self._configuration), self._function, self._addresses, None
            )
        )  # fmt: skip


def context() -> Context:
    """The current one of this thread; the current GPU's own is made so if there is none."""
    library, address = _library(), ctypes.c_void_p()
    _check(library.cuCtxGetCurrent(ctypes.byref(address)))
    if not address:
        _check(library.cuInit(0))
        device = ctypes.c_int()
        _check(library.cuDeviceGet(ctypes.byref(device), torch.cuda.current_device()))
        _check(library.cuDevicePrimaryCtxRetain(ctypes.byref(address), device))
        _check(library.cuCtxSetCurrent(address))
    assert address.value is not None
    return _described(address.value)


@functools.cache
def _described(address: int) -> Context:
    library, device = _library(), ctypes.c_int()
    _check(library.cuCtxGetDevice(ctypes.byref(device)))

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _check(library.cuDeviceGetAttribute(ctypes.byref(value), number, device))
        return value.value

    capability = 10 * attribute(COMPUTE_CAPABILITY_MAJOR) + attribute(COMPUTE_CAPABILITY_MINOR)
    return Context(address, capability, attribute(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN))


_functions: dict[tuple[int, str], tuple[ctypes.c_void_p, CompiledKernel]] = {}
"""Kernels that are loaded, by context and file. They stay for as long as the process lives: graphs hold them."""


def _loaded(
    launch: "Launch", target: "Target", found: Signature, here: Context
) -> tuple[ctypes.c_void_p, CompiledKernel]:
    file = kernel_cache.path(launch, target, here.capability, found)
    key = here.address, file.name
    if key not in _functions:
        kernel = ahead.get(launch, target, here.capability, file)
        try:
            function = _load(kernel, here)
        except UnusableCode:  # a whole file may still hold anything, such as another GPU's code
            kernel = kernel_cache.make(launch, target, here.capability, file)
            function = _load(kernel, here)
        _functions[key] = function, kernel
    return _functions[key]


def _load(kernel: CompiledKernel, here: Context) -> ctypes.c_void_p:
    from triton.runtime.errors import OutOfResources

    if kernel.shared > here.most_shared:
        raise OutOfResources(kernel.shared, here.most_shared, "shared memory")
    library, module, function = _library(), ctypes.c_void_p(), ctypes.c_void_p()
    _check(library.cuModuleLoadData(ctypes.byref(module), kernel.cubin))
    _check(library.cuModuleGetFunction(ctypes.byref(function), module, kernel.name.encode()))
    if kernel.shared > FREE_SHARED:
        _check(library.cuFuncSetCacheConfig(function, CACHE_PREFER_SHARED))
        most = here.most_shared - _function_attribute(function, SHARED_SIZE_BYTES)
        _check(library.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, most))
    threads = _function_attribute(function, MAX_THREADS_PER_BLOCK)  # asking has a lazy driver load the code now
    if WARP * kernel.warps > threads:
        raise OutOfResources(WARP * kernel.warps, threads, "threads")
    return function


def _function_attribute(function: ctypes.c_void_p, number: int) -> int:
    value = ctypes.c_int()
    _check(_library().cuFuncGetAttribute(ctypes.byref(value), number, function))
    return value.value


def _bits(value: Any, kind: str) -> int:
    """A value as the first bytes of 64 bits; the driver reads as many as the parameter has."""
    if kind.startswith("*"):
        if not (value.is_cuda or value.is_pinned()):  # pinned memory has one address for both
            raise ValueError("a kernel was given a tensor that is neither on the GPU nor in pinned memory")
        return value.data_ptr()
    if kind == "fp32":
        return int.from_bytes(ctypes.c_float(value), "little")
    return int(value) & (1 << 64) - 1


@functools.cache
def _library() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int) -> None:
    """Raise UnusableCode, or for any other failure RuntimeError, as torch words it."""
    if status:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(status, ctypes.byref(text))
        said = f"CUDA error: {(text.value or b'unknown').decode()}"
        if status in (INVALID_IMAGE, NO_BINARY_FOR_GPU, NOT_FOUND):
            raise UnusableCode(f"the GPU's driver refuses a kernel compiled for it ({said}); install a newer driver")
        raise RuntimeError(said)
