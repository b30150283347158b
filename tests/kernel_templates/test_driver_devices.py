"""What is asked of the driver about a GPU, with a stand-in for its library."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kernel_templates.cuda import driver_devices, machine
from kernel_templates.cuda.driver_devices import DriverDevice

ATTRIBUTES = {16: 132, 75: 9, 76: 0}
FOUND = DriverDevice("NVIDIA H200", (9, 0), 132, 150_109_880_320, "00010203-0405-0607-0809-0a0b0c0d0eff")


class Driver:
    """libcuda of a machine with two GPUs of one kind; `refuses`: a function that fails."""

    def __init__(self, refuses: str = "", version: int = 13000) -> None:
        self.refuses, self.version = refuses, version

    def __getattr__(self, function: str):
        if function == self.refuses:
            return lambda *arguments: 999
        answer = getattr(Driver, f"_{function}", lambda *arguments: 0)
        return lambda *arguments: answer(self, *arguments)

    def _cuDriverGetVersion(self, version):
        version._obj.value = self.version

    def _cuDeviceGetCount(self, count):
        count._obj.value = 2

    def _cuDeviceGetName(self, name, size, device):
        name.value = FOUND.name.encode()

    def _cuDeviceTotalMem_v2(self, size, device):
        size._obj.value = FOUND.memory_bytes

    def _cuDeviceGetUuid_v2(self, number, device):
        number.raw = bytes([*range(15), 255])

    def _cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = ATTRIBUTES[attribute]


@pytest.fixture
def driver(monkeypatch):
    def put(**about) -> None:
        stand_in = SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: Driver(**about)})
        monkeypatch.setattr(driver_devices, "ctypes", stand_in)

    monkeypatch.setattr(driver_devices, "torch_cuda", lambda: "13.0")
    put()
    return put


def test_a_gpu_is_described(driver) -> None:
    assert driver_devices.of(1) == FOUND


@pytest.mark.parametrize("about", [{"refuses": "cuInit"}, {"refuses": "cuDeviceGetUuid_v2"}, {"version": 12080}])
def test_nothing_is_said_where_torch_may_find_a_fault(driver, about) -> None:
    driver(**about)
    assert driver_devices.of(0) is None


def test_there_is_no_third_gpu(driver) -> None:
    assert driver_devices.of(2) is None


def test_without_a_driver_or_a_torch_for_gpus(monkeypatch) -> None:
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(driver_devices, "ctypes", SimpleNamespace(CDLL=missing))
    assert driver_devices.of(0) is None


def test_the_version_of_cuda_is_read_without_torch() -> None:
    code = (
        "import sys\nfrom kernel_templates.cuda import driver_devices\nread = driver_devices.torch_cuda()\n"
        "assert 'torch' not in sys.modules\nimport torch\nassert read == torch.version.cuda, read"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_versions_as_torch_writes_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(
        driver_devices.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    assert driver_devices.torch_cuda() is None
    for line, version in (("cuda: Optional[str] = '13.0'", "13.0"), ("cuda = None", None), ('cuda = "12.8"', "12.8")):
        (tmp_path / "version.py").write_text(f"__version__ = '2.11.0+cu130'\n{line}\nhip: Optional[str] = None\n")
        assert driver_devices.torch_cuda() == version


def test_once_torch_is_imported_it_is_asked(driver, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert machine._asked_of_driver(0) is None
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    assert machine._asked_of_driver(0) == FOUND and machine.uuid(0) == FOUND.uuid
    found = machine.detect(0)
    assert (found.chip, found.capability, found.units, found.memory_bytes) == ("NVIDIA H200", "9.0", 132, 150109880320)
    assert dict(found.versions)["cuda"] == "13.0"
    monkeypatch.setitem(ATTRIBUTES, 75, 6)
    assert machine._asked_of_driver(0) is None
