"""What is said of a GPU that cannot be used, each in one line; torch and NVML are stand-ins, no GPU is needed."""

import subprocess
import sys
from types import SimpleNamespace

import pynvml
import pytest
import torch

from kernel_templates.cuda import machine
from kernel_templates.cuda.launch import HOPPER, OLDER
from kernel_templates.cuda.machine import DeviceError
from kernel_templates.device import Device

H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
)


@pytest.fixture
def gpu(monkeypatch) -> SimpleNamespace:
    """A machine with one H100, whose facts a test may change before it asks."""
    facts = SimpleNamespace(properties=H100, count=1, listed=["NVIDIA H100 80GB HBM3"], driver_cuda=12080, nvml=None)

    def init() -> None:
        if facts.nvml:
            raise pynvml.NVMLError(facts.nvml)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: facts.count)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts.properties)
    monkeypatch.setattr(pynvml, "nvmlInit", init)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(facts.listed))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: facts.listed[handle])
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "570.86.10")
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: facts.driver_cuda)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(machine, "_triton", lambda: "3.6.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return facts


def complaint(index: int = 0) -> str:
    with pytest.raises(DeviceError) as caught:
        machine.check(index)
    text = str(caught.value)
    assert ("\n" not in text and "--device cpu" in text) or "CUDA_VISIBLE" in text or "cuda:0" in text, text
    return text


def test_a_usable_gpu(gpu) -> None:
    device = machine.detect(0)
    assert device == Device(
        "cuda", "NVIDIA H100 80GB HBM3", "9.0", 132, 80 << 30,
        (("cuda", "12.8"), ("driver", "570.86.10"), ("triton", "3.6.0")),
    )  # fmt: skip
    assert device.fingerprint == machine.detect(0).fingerprint and machine.count() == 1
    assert machine.l2_bytes(0) == 50 << 20
    gpu.driver_cuda, gpu.properties = 13000, SimpleNamespace(**{**vars(H100), "L2_cache_size": 0})
    assert machine.detect(0) == device and machine.l2_bytes(0) == 64 << 20


@pytest.mark.parametrize(("capability", "wanted"), [("7.5", OLDER), ("8.9", OLDER), ("9.0", HOPPER), ("12.0", HOPPER)])
def test_pdl_from_hopper_on(capability, wanted) -> None:
    assert machine.target(Device("cuda", "x", capability, 1, 1)) is wanted


def test_torch_without_cuda(gpu, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert machine.count() == 0 and "is built without CUDA" in complaint()


def test_no_driver(gpu) -> None:
    gpu.count, gpu.nvml = 0, pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert "no NVIDIA driver answers (NVML Shared Library Not Found)" in complaint()
    assert machine.listed() == ([], "NVML Shared Library Not Found")


def test_driver_too_old_for_this_torch(gpu) -> None:
    gpu.count, gpu.driver_cuda = 0, 11040
    said = complaint()
    assert "driver 570.86.10 supports CUDA 11.4 and is too old for this torch (CUDA 12.8)" in said


def test_driver_that_only_fails_when_started(gpu, monkeypatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nUpdate it.")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "is too old for this torch" in complaint()


def test_cuda_that_does_not_start(gpu, monkeypatch) -> None:
    def init() -> None:
        raise RuntimeError("CUDA unknown error\nand more")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "CUDA does not start (CUDA unknown error)" in complaint()


def test_no_gpu_in_the_machine(gpu) -> None:
    gpu.count, gpu.listed = 0, []
    assert "there is no NVIDIA GPU here" in complaint()


def test_every_gpu_hidden(gpu, monkeypatch) -> None:
    gpu.count = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides every GPU" in complaint()


def test_a_gpu_that_torch_cannot_start(gpu) -> None:
    gpu.count = 0
    assert "the driver lists NVIDIA H100 80GB HBM3, but torch cannot start" in complaint()


@pytest.mark.parametrize(("count", "names"), [(1, "cuda:0"), (4, "cuda:0 to cuda:3")])
def test_index_out_of_range(gpu, count, names) -> None:
    gpu.count = count
    assert f"there is no cuda:7; this machine has {names}" in complaint(7)


def test_gpu_older_than_volta(gpu) -> None:
    gpu.properties = SimpleNamespace(name="GTX 1080", major=6, minor=1)
    assert "GTX 1080 has compute capability 6.1; the kernels need 7.0 (Volta) or newer" in complaint()


def test_triton_missing(gpu, monkeypatch) -> None:
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed; ./scripts/setup_env cuda" in complaint()


class CompilationError(Exception):
    __module__ = "triton.compiler.errors"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore"), "not enough GPU memory"),
        (RuntimeError("CUDA error: out of memory"), "not enough GPU memory"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "is too old for this torch"),
        (CompilationError("at 3:4: nonsense\nmore"), "Triton could not compile a kernel"),
        (DeviceError("gone"), "gone"),
        (RuntimeError("shape mismatch"), None),
        (ValueError("no"), None),
    ],
)
def test_errors_in_one_line(gpu, error, said) -> None:
    text = machine.explain(error)
    assert text is None if said is None else said in text and "\n" not in text


def test_names() -> None:
    assert machine.index_of("cuda:12") == 12
    for wrong in ("cpu", "cuda", "cuda:", "cuda:x", "tpu:0"):
        with pytest.raises(ValueError, match="cuda:0"):
            machine.index_of(wrong)


def test_importing_starts_nothing() -> None:
    code = "import sys, kernel_templates.cuda.machine; print({'torch', 'triton', 'pynvml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
