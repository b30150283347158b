"""Kernels of a first text, planned without weights: they are those that are launched, and planned once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernel_templates.cuda import ahead, driver, kernel_cache  # noqa: E402
from kernel_templates.cuda.driver import Context  # noqa: E402
from kernel_templates.cuda.launch import HOPPER  # noqa: E402
from kernel_templates.device import Device  # noqa: E402
from model.config import ModelConfig  # noqa: E402
from model.cuda import first_text  # noqa: E402
from model.cuda.opening import Opening  # noqa: E402
from model.cuda.precompile import compile_first_texts  # noqa: E402
from model.gguf_file import open_gguf  # noqa: E402
from model.runner import Settings  # noqa: E402
from model.widths import PassSize, bucket  # noqa: E402

GPU = Device("cuda", "any", "9.0", 132, 80 << 30)
KERNEL = kernel_cache.CompiledKernel("kernel", b"code", 0, 4)


class OnProcessor(first_text.ShapesOnly):
    """Weights and buffers have values; programs are asked for their launches and do not run."""

    device = torch.device("cpu")


@pytest.fixture
def started(monkeypatch, tmp_path) -> Iterator[list[set[str]]]:
    """The kernels that were begun with, time after time; each is on disk at once."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "context", lambda: Context(1, 90, 1 << 17))
    found: list[set[str]] = []

    def start(work, target, capability, processes) -> None:
        found.append({file.stem for file, _ in work})
        for file, _ in work:
            kernel_cache.write(file, KERNEL)

    monkeypatch.setattr(ahead, "_start", start)
    yield found


def opening(path: Path, prompt: int) -> Opening:
    file = open_gguf(path)
    return Opening(file, ModelConfig.from_gguf(file), Settings(100, prompt=prompt), GPU)


def compile_ahead(path: Path, prompt: int) -> None:
    opened = opening(path, prompt)
    first_text.compile_ahead(opened.kernels_follow_from, HOPPER, prompt, opened.probable)


def names(executor: first_text.ShapesOnly) -> set[str]:
    return {kernel_cache.path(launch, HOPPER, 90).stem for launch in executor.launches}


@pytest.mark.parametrize(("shape", "form"), [("tiny", "Q4_0"), ("tiny", "Q6_K"), ("tiny-gemma3", "Q8_0")])
@pytest.mark.parametrize("prompt", [3, 20])
def test_what_is_planned_is_what_is_launched(
    made: Callable[[str, str], Path], started: list[set[str]], shape: str, form: str, prompt: int
) -> None:
    path = made(shape, form)
    compile_ahead(path, prompt)
    executor = OnProcessor(HOPPER)
    runner = opening(path, prompt).probable(executor)
    runner.decoder.program(first_text.FIRST_TOKEN, 0)
    if prompt < runner.steps_below:
        runner.decoder.program(("embed", "layers", "head"), 0)
    else:
        runner.forward.program(PassSize(1, bucket(prompt), runner.forward.bound(prompt - 1)))
        runner.decoder.program(("take", "head"), prompt - 1)
    assert started == [names(executor)]


@pytest.mark.slow
def test_the_compiler_of_torch_is_not_imported(made: Callable[[str, str], Path], started: list[set[str]]) -> None:
    path = made("tiny", "Q4_0")
    code = (
        "import sys; from tests.model import test_first_text as t; from model.cuda import first_text as f;"
        "f.driver.context = lambda: t.Context(1, 90, 1 << 17); t.ahead._start = lambda *a: None;"
        f"t.compile_ahead(t.Path({str(path)!r}), 20);"
        "print(sorted({'sympy', 'torch._dynamo', 'numba'} & {*sys.modules}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_a_model_is_planned_once_for_a_length_of_prompt(
    made: Callable[[str, str], Path], started: list[set[str]]
) -> None:
    path = made("tiny", "Q4_0")
    for prompt in (20, 20, 17, 32):
        compile_ahead(path, prompt)
    assert len(started) == 1
    compile_ahead(path, 40)
    assert len(started) == 2 and not started[1] & started[0], "kernels of another pass, and no other"


def test_a_precompiled_model_compiles_nothing_when_it_starts(
    made: Callable[[str, str], Path], started: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as many processes as were asked for."""
    path, begin, asked = made("tiny", "Q4_0"), ahead._start, []

    def start(work, target, capability, processes) -> None:
        asked.append(processes)
        begin(work, target, capability, processes)

    monkeypatch.setattr(ahead, "_start", start)
    file = open_gguf(path)
    assert compile_first_texts(file, ModelConfig.from_gguf(file), Settings(100), GPU, 3) == len(started[0])
    for prompt in (3, 16, 64):
        compile_ahead(path, prompt)
    assert len(started) == 1 and asked == [3]


@pytest.mark.parametrize("note", [b"", b"\xff", b"../../etc/passwd", b"0" * 32, b"[]"])
def test_a_damaged_note_is_made_anew(
    made: Callable[[str, str], Path], started: list[set[str]], tmp_path: Path, note: bytes
) -> None:
    path = made("tiny", "Q4_0")
    compile_ahead(path, 20)
    (file,) = (tmp_path / "cache" / "starts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(note)
    compile_ahead(path, 20)
    assert file.read_bytes() == whole and len(started) == 1


def test_a_kernel_that_is_gone_is_begun_with_again(made: Callable[[str, str], Path], started: list[set[str]]) -> None:
    path = made("tiny", "Q4_0")
    compile_ahead(path, 20)
    gone = min(started[0])
    kernel_cache.file(gone).unlink()
    compile_ahead(path, 20)
    assert started[1:] == [{gone}]
