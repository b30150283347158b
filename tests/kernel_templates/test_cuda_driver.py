"""What a launch hands to the driver: structures by NVIDIA's own header, which a stand-in for the library is made of."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernel_templates.cuda import driver, kernel_cache, machine  # noqa: E402
from kernel_templates.cuda.kernel_cache import CompiledKernel  # noqa: E402
from kernel_templates.cuda.launch import HOPPER, OLDER, Launch, Target  # noqa: E402

compiler = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(compiler is None, reason="no C compiler")

STAND_IN = r"""
#include <cuda.h>
#undef cuDevicePrimaryCtxRetain
CUlaunchConfig last; CUlaunchAttribute attribute; unsigned long long values[8]; int launches, loads, opted_in;
CUresult cuInit(unsigned f) { return 0; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)7; return 0; }
CUresult cuCtxGetDevice(CUdevice *d) { *d = 3; return 0; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  *v = a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : a == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 0
     : a == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 232448 : -1;
  return d != 3;
}
CUresult cuModuleLoadData(CUmodule *m, const void *image) {
  loads++;
  *m = (CUmodule)image;
  return *(char *)image == '?' ? CUDA_ERROR_INVALID_IMAGE : *(char *)image == 'o' ? CUDA_ERROR_NO_BINARY_FOR_GPU : 0;
}
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
  *f = (CUfunction)name[0];
  return name[0] == 'm' ? CUDA_ERROR_NOT_FOUND : 0;
}
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return c != CU_FUNC_CACHE_PREFER_SHARED; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
  opted_in = v;
  return a != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
}
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
  if (f == (CUfunction)'l') return CUDA_ERROR_INVALID_IMAGE;
  *v = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 512 : a == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES ? 16 : -1;
  return 0;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **parameters, void **extra) {
  last = *c; attribute = c->attrs[0]; launches++;
  values[0] = *(unsigned long long *)parameters[0];
  values[1] = *(unsigned *)parameters[1];
  values[2] = *(unsigned *)parameters[2];
  values[3] = *(unsigned long long *)parameters[3];
  values[4] = *(unsigned long long *)parameters[4] | *(unsigned long long *)parameters[5];
  return f == (CUfunction)'k' ? 0 : CUDA_ERROR_LAUNCH_FAILED;
}
CUresult cuGetErrorString(CUresult r, const char **text) {
  *text = r == 719 ? "it failed" : r == 200 ? "the image is invalid" : "?";
  return 0;
}
"""


class Kernel:
    """Stands for Triton's function: its parameters, two of them constants."""

    def __init__(self) -> None:
        names = ("p", "count", "scale", "EACH", "large", "none", "PDL", "ASM")
        self.params = [SimpleNamespace(name=name, num=i, do_not_specialize=False) for i, name in enumerate(names)]
        self.fn = self.__init__  # type: ignore[misc]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Any:
    folder: Path = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(STAND_IN)
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    made = folder / "libcuda.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-I{headers}", "-o", str(made), str(folder / "driver.c")], check=True
    )
    return ctypes.CDLL(str(made))


@pytest.fixture
def gpu(library, monkeypatch) -> Iterator[Any]:
    monkeypatch.setattr(driver, "_library", lambda: library)
    monkeypatch.setattr(driver, "_functions", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0x51, raising=False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device.type == "cpu"), raising=False)
    driver._described.cache_clear()
    yield library
    driver._described.cache_clear()


def ready(monkeypatch, kernel: CompiledKernel) -> None:
    monkeypatch.setattr(kernel_cache, "path", lambda *about: Path(kernel.name))
    monkeypatch.setattr(kernel_cache, "read", lambda file: kernel)


class Configuration(ctypes.Structure):
    """Of the stand-in, as bytes: what the C compiler made of NVIDIA's header."""

    _fields_ = (("raw", ctypes.c_byte * 56),)


@pytest.mark.parametrize("target", [HOPPER, OLDER])
def test_a_launch_arrives_as_the_header_has_it(gpu, monkeypatch, target: Target) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", shared=1000, warps=4))
    tensor = torch.zeros(16)
    launch = Launch("out", Kernel(), (7, 2), (tensor, -5, 0.5, 1 << 40, None), {"EACH": 2})
    before = ctypes.c_int.in_dll(gpu, "launches").value
    launch.run(target)
    launch.run(target)
    assert ctypes.c_int.in_dll(gpu, "launches").value == before + 2
    last = driver.Configuration.in_dll(gpu, "last")
    assert (last.grid_x, last.grid_y, last.grid_z) == (7, 2, 1)
    assert (last.block_x, last.block_y, last.block_z, last.shared, last.stream) == (128, 1, 1, 1000, 0x51)
    assert last.attribute_count == int(target.pdl)
    attribute = driver.Attribute.in_dll(gpu, "attribute")
    assert (attribute.id, attribute.value) == (driver.PROGRAMMATIC_STREAM_SERIALIZATION, 1)
    values = (ctypes.c_ulonglong * 8).in_dll(gpu, "values")
    half = int.from_bytes(ctypes.c_float(0.5), "little")
    assert list(values[:5]) == [tensor.data_ptr(), (-5) & 0xFFFFFFFF, half, 1 << 40, 0]  # the last two: no scratch


def test_a_module_is_loaded_once_for_many_launches(gpu, monkeypatch) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", 0, 4))
    before = ctypes.c_int.in_dll(gpu, "loads").value
    for _ in range(3):
        Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)
    assert ctypes.c_int.in_dll(gpu, "loads").value == before + 1


def test_much_shared_memory_is_asked_for(gpu, monkeypatch) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", 100_000, 4))
    Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).load(HOPPER)
    assert ctypes.c_int.in_dll(gpu, "opted_in").value == 232448 - 16


def test_an_empty_grid_launches_nothing(gpu, monkeypatch) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", 0, 4))
    before = ctypes.c_int.in_dll(gpu, "launches").value
    Launch("out", Kernel(), (0,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)
    assert ctypes.c_int.in_dll(gpu, "launches").value == before


@pytest.mark.parametrize(("shared", "warps", "what"), [(232449, 4, "shared memory"), (0, 32, "threads")])
def test_more_than_the_gpu_has_is_refused_by_name(gpu, monkeypatch, shared: int, warps: int, what: str) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", shared, warps))
    with pytest.raises(triton.runtime.errors.OutOfResources, match=what):
        Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)


def test_an_error_of_the_driver_is_told_in_its_words(gpu, monkeypatch) -> None:
    ready(monkeypatch, CompiledKernel("broken", b"code", 0, 4))
    with pytest.raises(RuntimeError, match="CUDA error: it failed"):
        Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)


UNUSABLE = {
    "no image": CompiledKernel("kernel", b"?", 0, 4), "another GPU's": CompiledKernel("kernel", b"other", 0, 4),
    "another name": CompiledKernel("missing", b"code", 0, 4), "found out lazily": CompiledKernel("late", b"code", 0, 4),
}  # fmt: skip


@pytest.mark.parametrize("kernel", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_the_driver_refuses_is_compiled_anew(gpu, monkeypatch, kernel: CompiledKernel) -> None:
    ready(monkeypatch, kernel)
    made: list[Path] = []

    def make(launch: Launch, target: Target, capability: int, file: Path) -> CompiledKernel:
        made.append(file)
        return CompiledKernel("kernel", b"code", 0, 8)

    monkeypatch.setattr(kernel_cache, "make", make)
    Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)
    assert made == [Path(kernel.name)] and driver.Configuration.in_dll(gpu, "last").block_x == 8 * 32


def test_what_the_driver_refuses_again_is_one_line(gpu, monkeypatch) -> None:
    ready(monkeypatch, UNUSABLE["no image"])
    monkeypatch.setattr(kernel_cache, "make", lambda *about: UNUSABLE["no image"])
    with pytest.raises(machine.DeviceError) as caught:
        Launch("out", Kernel(), (1,), (torch.zeros(16), 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)
    assert machine.explain(caught.value) == (
        "the GPU's driver refuses a kernel compiled for it (CUDA error: the image is invalid); install a newer driver"
    )


def test_a_tensor_that_is_not_on_the_gpu_is_refused(gpu, monkeypatch) -> None:
    ready(monkeypatch, CompiledKernel("kernel", b"code", 0, 4))
    meta = torch.zeros(16, device="meta")
    with pytest.raises(ValueError, match="neither on the GPU nor in pinned memory"):
        Launch("out", Kernel(), (1,), (meta, 3, 0.5, 1 << 40, None), {"EACH": 2}).run(HOPPER)
