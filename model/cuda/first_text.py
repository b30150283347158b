"""Which kernels a first text needs, known before its weights are on the GPU: they compile while weights are read.

The engine is put together on torch's "meta" device, whose tensors have shapes and no memory, and asked for the launches
of its first programs. That takes half a second, so the files of the kernels are noted for the next start, which then
only looks whether they are still there.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from kernel_templates import cache_folder, sources
from kernel_templates.cuda import ahead, driver, kernel_cache, lean_torch
from kernel_templates.cuda.launch import Launch, Target
from model.cuda.execution import Cut, Program, TokenReadback
from model.cuda.runner import CudaRunner
from model.widths import PassSize, bucket

FIRST_TOKEN = ("layers", "head", "greedy")
"""Parts of the program that is captured before there is a prompt."""
NAMES = 32  # hexadecimal digits of a file's name


class ShapesOnly:
    """An executor of nothing: programs are kept, to be asked for their launches."""

    device = torch.device("meta")

    def __init__(self, target: Target):
        self.target = target
        self.launches: list[Launch] = []

    def here(self) -> AbstractContextManager:
        return nullcontext()

    def program(self, launches: Sequence[Launch | Cut], name: str = "token") -> Program:
        self.launches += [launch for launch in launches if isinstance(launch, Launch)]
        return lambda: None

    def compile(self, launches: Sequence[Launch]) -> Callable[[], bool]:
        raise NotImplementedError("what is compiled ahead is compiled for its launches")

    def span(self, name: str) -> AbstractContextManager:
        return nullcontext()

    def readback(self, width: int, slots: int) -> TokenReadback:
        raise NotImplementedError("nothing is read from shapes")

    def shared(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=self.device)

    def run_until(self, program: Program, came: Callable[[], bool]) -> None:
        raise NotImplementedError("nothing comes from shapes")


def compile_ahead(about: object, target: Target, prompt: int, runner: Callable[[ShapesOnly], CudaRunner]) -> None:
    """Begin to compile the kernels of a first text that are not on disk, for the current GPU. about: all that they
    follow from besides this program's code (by its repr); prompt: tokens that it will have, 0 if that is not known;
    runner: the engine, put together on an executor."""
    capability = driver.context().capability
    note = _note(about, target, capability, prompt)
    if _all_there(note):
        return
    _remember(note, ahead.start(launches(target, prompt, runner), target, capability))


def launches(target: Target, prompt: int, runner: Callable[[ShapesOnly], CudaRunner]) -> list[Launch]:
    """What a first text of so many tokens launches; 0: one that is not known yet."""
    lean_torch.complete()
    shapes = ShapesOnly(target)
    made = runner(shapes)
    made.decoder.program(FIRST_TOKEN, 0)
    if prompt >= made.steps_below:
        made.decoder.program(("take", "head"), prompt - 1)
        rows = min(prompt, made.forward.most)
        made.forward.program(PassSize(1, bucket(rows), made.forward.bound(rows - 1)))
    else:
        made.decoder.program(("embed", "layers", "head"), 0)
    return shapes.launches


def _note(about: object, target: Target, capability: int, prompt: int) -> Path:
    key = repr((about, target, capability, bucket(max(prompt, 1)), kernel_cache.software(), _own_sources()))
    return cache_folder.path() / "starts" / hashlib.sha256(key.encode()).hexdigest()[:NAMES]


def _all_there(note: Path) -> bool:
    """Whether the kernels that a note names are on disk. What else it may hold costs time, nothing more: a kernel that
    is not there when it is launched is compiled then."""
    try:
        names = note.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    plain = all(len(name) == NAMES and name.isalnum() for name in names)
    return bool(names) and plain and all(kernel_cache.file(name).exists() for name in names)


def _remember(note: Path, files: Iterable[Path]) -> None:
    cache_folder.write(note, "\n".join(file.stem for file in files).encode("ascii"))


def _own_sources() -> str:
    """A hash over the engine's code, which decides what a text needs."""
    return sources.of_folder(Path(__file__).parent.parent)
