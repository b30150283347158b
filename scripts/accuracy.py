"""How far each engine's predictions are from the judge's: ours and llama.cpp's, against the same float32 reference.

The reference (model/reference.py) computes with the same quantized weights, so what is measured is an engine's own
arithmetic: rounded activations, float16 caches, orders of summation. Top-1 is the share of positions whose most likely
token is the reference's; KL(reference ‖ engine) is in nats, over float64 log-softmaxes, averaged over positions.
"""

import sys
import tempfile
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
from torch import Tensor

from kernel_templates.cpu import machine
from model.gguf_file import open_gguf
from model.reference import reference_logits
from model.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "benchmarks" / "text.txt"
REAL_TOKENS, MADE_TOKENS = 256, 64
PATHS = {"decode": True, "prefill": False}  # name -> stepwise
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 110)  # a log has no width; a table needs one


def distance(wanted: Tensor, found: Tensor) -> dict[str, float]:
    """Both logits [tokens, vocab] -> top-1 agreement and KL divergence; row by row to keep float64 small."""
    same, divergence = 0, []
    for p, q in zip(wanted, found, strict=True):
        log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        divergence.append(float((log_p.exp() * (log_p - log_q)).sum()))
        same += int(p.argmax() == q.argmax())
    return {"top1": same / len(wanted), "mean_kl": sum(divergence) / len(wanted), "max_kl": max(divergence)}


def measure(path: Path, python: Path, count: int, threads: int, db: str | None) -> dict[str, Any]:
    """Both engines, both ways through the model, on the first `count` tokens of the text."""
    file = open_gguf(path)
    tokens = Tokenizer.from_metadata(file.metadata).encode(TEXT.read_text())[:count]
    wanted = reference_logits(file, tokens)
    context = 2 * count
    ours = {"path": str(path), "threads": threads, "context": context, "db": db}
    theirs = {"path": str(path), "threads": threads, "context": context, "repack": True}
    sides = {
        "autotune": (sys.executable, "our_worker.py", ours),
        "llama.cpp": (python, "llama_worker.py", {**theirs, "flash_attn": False}),
        "llama.cpp, flash attention": (python, "llama_worker.py", {**theirs, "flash_attn": True}),
    }
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "logits.npy")
        for side, (interpreter, script, settings) in sides.items():
            with Child(interpreter, script) as child:
                child.ask("open", **settings)
                results[side] = {}
                for name, stepwise in PATHS.items():
                    child.ask("logits", tokens=tokens, stepwise=stepwise, out=out)
                    results[side][name] = distance(wanted, torch.from_numpy(np.load(out)))
    return {"file": path.name, "tokens": len(tokens), "engines": results}


def table_of(models: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="against the float32 reference over the same weights")
    for name in ("engine", "path", "top-1", "mean KL, nats", "max KL, nats"):
        table.add_column(name, justify="left" if name in ("engine", "path") else "right")
    for model, result in models.items():
        table.add_row(f"[bold]{model}, {result['tokens']} tokens[/]")
        for engine, paths in result["engines"].items():
            for path, row in paths.items():
                cells = (f"{row['top1']:.1%}", f"{row['mean_kl']:.2g}", f"{row['max_kl']:.2g}")
                table.add_row(engine, path, *cells)
        table.add_section()
    return table


@click.command()
@click.option("--peer-python", "peer_python_path", help=f"A Python that has llama_cpp; or ${VARIABLE}.")
@click.option("--db", help="Tuning database (default: the user's own).")
@click.option("--threads", type=click.IntRange(1), default=machine.thread_count, show_default="physical cores")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "accuracy_cpu.json")
def main(peer_python_path: str | None, db: str | None, threads: int, out: Path) -> None:
    """Measure our logits and llama.cpp's against the reference and write benchmarks/accuracy_cpu.json.

    Example: scripts/accuracy
    """
    torch.set_num_threads(threads)
    python = peer_python(peer_python_path)
    try:
        with Child(python, "llama_worker.py") as peer:
            document = facts.context(peer, python, measure=False)
        document["models"] = {}
        for name, path in files.compared_models().items():
            count = REAL_TOKENS if name == files.REAL else MADE_TOKENS
            screen.print(f"{name}: {count} tokens ...")
            document["models"][name] = measure(path, python, count, threads, db)
    except WorkerError as error:
        raise click.ClickException(str(error)) from None
    facts.write(out, document)
    screen.print(table_of(document["models"]))


if __name__ == "__main__":
    main()
