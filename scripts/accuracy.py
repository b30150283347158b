"""How far each engine's predictions are from the judge's: ours and llama.cpp's, against the same float32 reference.

Beside it how many of ten greedy texts are the reference's; on a GPU ours alone, and how many are the CPU backend's.

The reference (model/reference.py) computes with the same quantized weights, so what is measured is an engine's own
arithmetic: rounded activations, float16 caches, orders of summation. Top-1 is the share of positions whose most likely
token is the reference's; KL(reference ‖ engine) is `autotune.precision.divergence`, as `autotune precision` has it.
"""

import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from peer import facts, files
from peer.build import VARIABLE, peer_python
from peer.child import Child, WorkerError
from rich.console import Console
from rich.table import Table

from autotune.precision.divergence import divergence, reference_rows
from autotune.precision.model_precision import TEXT
from autotune.runner.versions import versions
from kernel_templates.cpu import machine
from model.gguf_file import open_gguf
from model.reference import reference_hidden
from model.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
REAL_TOKENS, MADE_TOKENS = 256, 64
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "Water boils at a temperature of",
    "def fibonacci(n):",
    "The three longest rivers of the world are",
    "To bake bread you need flour, water and",
    "Dear neighbour, I am writing to you because",
    "A virus differs from a bacterium in that",
    "Five birds that cannot fly:",
    "In the year 1969 two people",
)
TEXT_TOKENS = 64
PATHS = {"decode": True, "prefill": False}  # name -> stepwise
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 110)  # a log has no width; a table needs one


def measure(
    path: Path, python: Path | None, count: int, threads: int, db: str | None, device: str = "cpu"
) -> dict[str, Any]:
    """Our engine on `device` and, if it has a Python, llama.cpp on the processor; both ways through the model, on the
    first `count` tokens of the text."""
    file = open_gguf(path)
    tokens = Tokenizer.from_metadata(file.metadata).encode(TEXT.read_text())[:count]
    context = 2 * count
    hidden = reference_hidden(file, tokens, context)
    ours = {"path": str(path), "threads": threads, "context": context, "db": db, "device": device}
    theirs = {"path": str(path), "threads": threads, "context": context, "repack": True}
    sides: dict[str, tuple[str | Path, str, dict[str, Any]]] = {"autotune": (sys.executable, "our_worker.py", ours)}
    if python:
        sides["llama.cpp"] = (python, "llama_worker.py", {**theirs, "flash_attn": False})
        sides["llama.cpp, flash attention"] = (python, "llama_worker.py", {**theirs, "flash_attn": True})
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "logits.npy")
        for side, (interpreter, script, settings) in sides.items():
            with Child(interpreter, script) as child:
                child.ask("open", **settings)
                results[side] = {}
                for name, stepwise in PATHS.items():
                    child.ask("logits", tokens=tokens, stepwise=stepwise, out=out)
                    found = divergence(reference_rows(file, hidden), np.load(out, mmap_mode="r"))
                    results[side][name] = {key: value for key, value in asdict(found).items() if key != "tokens"}
    return {"file": path.name, "tokens": len(tokens), "engines": results}


def table_of(models: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="against the float32 reference over the same weights")
    for name in ("engine", "path", "top-1", "mean KL, nats", "99% KL, nats", "max KL, nats"):
        table.add_column(name, justify="left" if name in ("engine", "path") else "right")
    for model, result in models.items():
        table.add_row(f"[bold]{model}, {result['tokens']} tokens[/]")
        for engine, paths in result["engines"].items():
            for path, row in paths.items():
                cells = (f"{row['top1']:.1%}", *(f"{row[name]:.2g}" for name in ("mean_kl", "p99_kl", "max_kl")))
                table.add_row(engine, path, *cells)
        table.add_section()
    return table


def reference_texts(path: Path, python: Path, threads: int, db: str | None) -> dict[str, Any]:
    """For every prompt, after how many tokens our greedy text and llama.cpp's part from the reference's.

    A text is the reference's as far as each of its tokens is the likeliest after those before it; one pass of the
    reference over prompt and text says so for all of them.
    """
    file = open_gguf(path)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in PROMPTS]
    same, settings = {}, {"path": str(path), "threads": threads, "context": 512}
    for side, interpreter, script, own in (
        ("autotune", sys.executable, "our_worker.py", {"db": db}),
        ("llama.cpp", python, "llama_worker.py", {}),
    ):
        with Child(interpreter, script) as child:
            child.ask("open", **settings, **own)
            texts = child.ask("greedy", prompts=prompts, tokens=TEXT_TOKENS)["tokens"]
        for row, prompt, text in zip(rows, prompts, texts, strict=True):
            likeliest = reference_logits(file, [*prompt, *text[:-1]])[len(prompt) - 1 :].argmax(-1).tolist()
            row[side] = {"same_until": same_until(likeliest, text), "text": tokenizer.decode(text)}
        same[side] = sum(row[side]["same_until"] == TEXT_TOKENS for row in rows)
    return {"tokens": TEXT_TOKENS, "prompts": len(rows), "same": same, "texts": rows}


def compare_texts(path: Path, threads: int, db: str | None, device: str) -> dict[str, Any]:
    """Greedy texts of the CPU backend and of `device`, for every prompt; and where they part."""
    tokenizer = Tokenizer.from_metadata(open_gguf(path).metadata)
    prompts, texts = [tokenizer.encode(prompt) for prompt in PROMPTS], []
    for where in ("cpu", device):
        with Child(sys.executable, "our_worker.py") as child:
            child.ask("open", path=str(path), threads=threads, context=512, db=db, device=where)
            texts.append(child.ask("greedy", prompts=prompts, tokens=TEXT_TOKENS)["tokens"])
    rows = [
        {"prompt": prompt, "same_until": same_until(cpu, gpu)} for prompt, cpu, gpu in zip(PROMPTS, *texts, strict=True)
    ]
    same = sum(row["same_until"] == TEXT_TOKENS for row in rows)
    return {"tokens": TEXT_TOKENS, "prompts": len(rows), "same": same, "texts": rows}


def same_until(a: list[int], b: list[int]) -> int:
    """How many tokens two texts have in common before they part."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@click.command()
@click.option(
    "--peer-python", "peer_python_path", help=f"A Python that has xllamacpp or llama_cpp, or 'build'; or ${VARIABLE}."
)
@click.option("--db", help="Tuning database (default: the user's own).")
@click.option("--threads", type=click.IntRange(1), default=machine.thread_count, show_default="physical cores")
@click.option("--device", default="cpu", show_default=True, help="Where ours runs: cpu, cuda or cuda:N (ours alone).")
@files.models_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: benchmarks/accuracy_cpu.json, accuracy_cpu_NAME.json for "
    "a model; on a GPU the folder benchmarks/CHIP, with accuracy_MODEL.json for each model."
)  # fmt: skip
def main(
    peer_python_path: str | None, db: str | None, threads: int, device: str, models: tuple[str, ...], out: Path | None
) -> None:
    """Measure our logits and llama.cpp's against the reference and write benchmarks/accuracy_cpu.json.

    On a GPU ours are measured alone (llama.cpp's arithmetic is the processor's, which the other file has), and greedy
    texts are compared with the CPU backend's.

    Example: scripts/accuracy --model gemma
    """
    torch.set_num_threads(threads)
    try:
        if device == "cpu":
            default = files.results(ROOT / "benchmarks" / "accuracy_cpu.json", models)
            _on_cpu(files.compared_models(models), peer_python(peer_python_path), db, threads, out or default)
        else:
            _on_gpu(files.compared_models(models), db, threads, device, out)
    except WorkerError as error:
        raise click.ClickException(str(error)) from None


def _on_cpu(models: dict[str, Path], python: Path, db: str | None, threads: int, out: Path) -> None:
    with Child(python, "llama_worker.py") as peer:
        document = facts.context(peer, python, measure=False)
    document["models"] = {}
    for name, path in models.items():
        document["models"][name] = result = _logits(name, path, python, threads, db, "cpu")
        if name != files.MADE:
            screen.print(f"{name}: {len(PROMPTS)} texts of {TEXT_TOKENS} tokens ...")
            result["texts"] = reference_texts(path, python, threads, db)
            for side, same in result["texts"]["same"].items():
                screen.print(f"{side}: {same} of {len(PROMPTS)} greedy texts are the reference's")
    facts.write(out, document)
    screen.print(table_of(document["models"]))


def _on_gpu(files_by_name: dict[str, Path], db: str | None, threads: int, device: str, out: Path | None) -> None:
    """One file a model, so that a machine that has not both keeps the other's."""
    about, models, short = _gpu_facts(device), {}, {name: word for word, (name, _) in files.MODELS.items()}
    folder = out or ROOT / "benchmarks" / facts.chip_folder(about["device"]["chip"])
    for name, path in files_by_name.items():
        models[name] = _logits(name, path, None, threads, db, device)
        document = {**about, "models": {name: models[name]}}
        if name != files.MADE:
            screen.print(f"{name}: {len(PROMPTS)} texts of {TEXT_TOKENS} tokens on the cpu and on {device} ...")
            document["texts"] = compare_texts(path, threads, db, device)
            screen.print(f"{document['texts']['same']} of {len(PROMPTS)} texts are the same")
        facts.write(folder / f"accuracy_{short.get(name, name)}.json", document)
    screen.print(table_of(models))


def _logits(name: str, path: Path, python: Path | None, threads: int, db: str | None, device: str) -> dict[str, Any]:
    count = MADE_TOKENS if name == files.MADE else REAL_TOKENS
    screen.print(f"{name}: {count} tokens ...")
    return measure(path, python, count, threads, db, device)


def _gpu_facts(device: str) -> dict[str, Any]:
    from kernel_templates.cuda import machine as gpus

    try:
        found = gpus.detect(gpus.index_of(f"{device}:0" if device == "cuda" else device))
    except (gpus.DeviceError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"scripts/accuracy --device {device}",
        "versions": versions() | dict(found.versions),
        "device": {"chip": found.chip, "capability": found.capability, "fingerprint": found.fingerprint},
    }


if __name__ == "__main__":
    main()
