"""How much of a GPU's memory a model takes that decodes many texts at once, beyond its weights and the texts' KV cache.

Every text is brought to its last position: a prompt, then decode steps. What torch had allocated at most is counted,
and what the driver says the device holds more than before this process used it: the CUDA context, compiled kernels and
what torch keeps for later besides. Run it on a GPU that nothing else uses.
"""

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import bench_gpu
import click
from peer import facts
from rich.console import Console

import model
from autotune import UserError
from autotune.commands import options
from autotune.runner.versions import versions
from kernel_templates.cuda import machine
from model.config import ModelConfig
from model.gguf_file import open_gguf
from model.sampling import Sampler
from model.sequences import Sequences

ROOT = Path(__file__).resolve().parent.parent
LAST = 128
"""Tokens of a text that are decoded; those before are its prompt."""
screen = Console(highlight=False, width=120)


def held(index: int) -> int:
    """Bytes of the GPU's memory that are in use, by any process."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(machine.uuid(index))
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def cache_bytes(config: ModelConfig, texts: int, positions: int) -> int:
    """Of float16 keys and values of every layer."""
    return texts * positions * sum(2 * 2 * sizes.kv_rows for sizes in config.sizes)


def weight_bytes(path: Path) -> int:
    """Of all tensors, as the file has them."""
    return sum(tensor.bytes for tensor in open_gguf(path).tensors.values())


def fill(sequences: Sequences, texts: int, prompt: list[int], tokens: int) -> int:
    """Decode so many texts to their end; the bytes of their cache there. Raises ModelError."""
    numbers = [sequences.join(prompt, tokens, Sampler()) for _ in range(texts)]
    if None in numbers:
        raise model.errors.ModelError(f"memory does not hold {texts} texts of {len(prompt) + tokens} tokens")
    for _ in range(tokens):
        sequences.send()
        sequences.receive()
    return sequences.cache_bytes


def measure(path: Path, device: str, index: int, texts: int, positions: int) -> dict[str, Any]:
    """Bytes, by what they are of. Raises ModelError."""
    import torch

    before = held(index)
    torch.cuda.reset_peak_memory_stats(index)
    with closing(model.load(path, device, context=positions)) as engine:
        loaded = torch.cuda.memory_allocated(index)
        words = engine.tokenizer.encode("The quick brown fox jumps over the lazy dog. ") or [1]
        count = positions - LAST
        prompt = (words * (count // len(words) + 1))[:count]
        cached = fill(engine.runner.open_sequences(texts), texts, prompt, LAST)
        torch.cuda.synchronize(index)
        found = {
            "weights": weight_bytes(path), "kv": cache_bytes(engine.config, texts, positions), "cache": cached,
            "loaded": loaded, "peak": torch.cuda.max_memory_allocated(index),
            "reserved": torch.cuda.max_memory_reserved(index), "device": held(index) - before,
        }  # fmt: skip
    torch.cuda.empty_cache()
    return found | {name: found[of] - found["weights"] - found["kv"] for name, of in BEYOND.items()}


BEYOND = {"beyond": "peak", "device_beyond": "device"}
MEANINGS = {
    "weights": "weights, as the file has them",
    "kv": "float16 keys and values of all positions",
    "cache": "what the texts' cache takes, in whole pages",
    "loaded": "allocated by torch after loading",
    "peak": "allocated by torch at most",
    "reserved": "reserved by torch at most",
    "device": "held by the device more than before, by its driver",
    "beyond": "peak beyond weights, keys and values",
    "device_beyond": "held by the device beyond weights, keys and values",
}


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--device", type=options.DeviceName(), default="cuda:0", show_default=True)
@click.option("--texts", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--positions", type=click.IntRange(min=LAST + 1), default=2048, show_default=True, help="Of each text, at its end."
)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where model files are made.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: benchmarks/CHIP/memory.json]")
def main(
    names: tuple[str, ...], device: str, texts: int, positions: int, folder: Path | None, out: Path | None
) -> None:
    """Measure MODELs, a shape and a format as of scripts/bench_gpu (qwen3-8b-Q4_0 if none is given).

    Example: scripts/bench_memory qwen3-0.6b-Q4_0 --texts 32 --positions 2048
    """
    if device == options.CPU:
        raise click.UsageError("this measures a GPU's memory; give --device cuda:0")
    chosen = names or ("qwen3-8b-Q4_0",)
    for name in chosen:
        bench_gpu.parse(name)
    try:
        options.require(device)
    except UserError as error:
        raise click.UsageError(str(error)) from None
    index = int(device.removeprefix("cuda:"))
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autotune-", dir=folder)))
        for name in chosen:
            try:
                path = bench_gpu.model_file(name, made)
                results[name] = measure(path, device, index, texts, positions)
            except (bench_gpu.Failed, model.errors.ModelError) as error:
                raise click.ClickException(f"{name}: {error}") from None
            for key, meaning in MEANINGS.items():
                screen.print(f"{name}: {results[name][key] / 1e9:8.3f} GB  {meaning}")
    chip = machine.detect(index).chip
    document = {
        "date": facts.here()["date"], "command": facts.here()["command"], "versions": versions(),
        "device": {"name": device, "chip": chip}, "texts": texts, "positions": positions, "meanings": MEANINGS,
        "bytes": results,
    }  # fmt: skip
    path = out or ROOT / "benchmarks" / facts.chip_folder(chip) / "memory.json"
    facts.write(path, document)
    screen.print(f"written to {path}")


if __name__ == "__main__":
    main()
