#!/usr/bin/env python
"""Compare every quant format with ggml, bit for bit: what blocks mean, and what blocks weights become.

The judges are the packages gguf (numpy) and libgguf (ggml's C code), the latter needed by nothing else here:
`pip install --target DIR --no-deps libgguf`, then PYTHONPATH=DIR. Blocks to be read are random bytes, then blocks whose
scales are zeros of both signs, the smallest and largest subnormals, the largest numbers, infinity and NaN. Weights to
be quantized are random with sizes that vary by elements, groups and blocks, then the hard cases of `tests/formats`.
Equal means the same bits, the sign of zero included; a NaN is equal to any NaN.

Example: PYTHONPATH=/tmp/libgguf scripts/check_formats.py --blocks 1048576 -o benchmarks/formats.json
"""

import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "formats")]

from format_samples import gguf_dequantize, hard_weights  # noqa: E402

from kernel_templates.formats import FORMATS, Format  # noqa: E402
from kernel_templates.formats.layout import Blocks  # noqa: E402

CHUNK = 1 << 20  # weights compared at once
HALVES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)
EDGE_REPEATS = 16  # random quants under each pair of edge scales


def differing(found: np.ndarray, wanted: np.ndarray) -> int:
    """How many numbers differ in a bit; NaN equals NaN."""
    if found.dtype == np.uint8:
        return int((found != wanted).sum())
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    return int((~same).sum())


def random_blocks(fmt: Format, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """uint8 [blocks, bytes]: any bytes, `count` blocks in all."""
    at_once = CHUNK // fmt.block
    for first in range(0, count, at_once):
        yield rng.integers(0, 256, (min(at_once, count - first), fmt.block_bytes), np.uint8)


def edge_blocks(fmt: Format, rng: np.random.Generator) -> np.ndarray:
    """uint8 [blocks, bytes]: scales and minimums at the limits, over random quants, and over none and all bits set."""
    layout = fmt.layout
    assert isinstance(layout, Blocks)
    scales = list(range(256)) if layout.exponent else HALVES
    minimums = HALVES if layout.minimum is not None else (0,)
    made = []
    for scale in scales:
        for minimum in minimums:
            blocks = rng.integers(0, 256, (EDGE_REPEATS, fmt.block_bytes), np.uint8)
            blocks[0], blocks[1] = 0, 255
            width = 1 if layout.exponent else 2
            blocks[:, layout.scale : layout.scale + width] = np.frombuffer(scale.to_bytes(width, "little"), np.uint8)
            if layout.minimum is not None:
                blocks[:, layout.minimum : layout.minimum + 2] = np.frombuffer(minimum.to_bytes(2, "little"), np.uint8)
            made.append(blocks)
    return np.concatenate(made)


def random_weights(fmt: Format, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """float32 [blocks, size]: normal, with sizes of groups apart, of elements apart, of few values."""
    at_once = CHUNK // fmt.block
    for first in range(0, count, at_once):
        rows = min(at_once, count - first)
        x = rng.standard_normal((rows, fmt.block), np.float32)
        x *= np.exp2(rng.uniform(-24, 4, (rows, 1))).astype(np.float32)
        part = rows // 4
        x[part : 2 * part] *= np.exp2(rng.integers(-6, 6, (part, fmt.block // 16))).repeat(16, 1).astype(np.float32)
        x[2 * part : 3 * part] *= np.exp2(rng.uniform(-12, 3, (part, fmt.block))).astype(np.float32)
        few = rng.integers(-8, 9, (rows - 3 * part, fmt.block)) * (rng.random((rows - 3 * part, fmt.block)) < 0.5)
        x[3 * part :] = few * np.float32(0.0625)
        yield x


def check(fmt: Format, blocks: int, quantized: int, seed: int) -> dict[str, Any]:
    """What was compared of a format, and how many numbers or bytes differ."""
    import libgguf

    rng, began = np.random.default_rng(seed), time.monotonic()
    counts = ("blocks_read", "edge_blocks", "numbers_unlike_libgguf", "numbers_unlike_gguf")
    found: dict[str, Any] = {"format": fmt.name} | dict.fromkeys(counts, 0)
    for counted, data in (
        ("edge_blocks", [edge_blocks(fmt, rng)]),
        ("blocks_read", random_blocks(fmt, blocks, rng)),
    ):
        for some in data:
            ours = fmt.dequantize(torch.from_numpy(some)).numpy()
            found[counted] += len(some)
            found["numbers_unlike_libgguf"] += differing(ours, libgguf.dequantize_rows(some, fmt.ggml_type))
            found["numbers_unlike_gguf"] += differing(ours, gguf_dequantize(fmt, some))
    if fmt.quantizer is not None:
        found |= {"blocks_written": 0, "hard_blocks": 0, "bytes_unlike_libgguf": 0}
        for counted, samples in (
            ("blocks_written", random_weights(fmt, quantized, rng)),
            ("hard_blocks", (x.reshape(-1, fmt.block) for x in hard_weights(seed).values())),
        ):
            for x in samples:
                wanted = np.frombuffer(libgguf.quantize_rows_raw(fmt.ggml_type, x, *x.shape), np.uint8)
                made = fmt.quantize(torch.from_numpy(x)).numpy().reshape(-1)
                found[counted] += len(x)
                found["bytes_unlike_libgguf"] += differing(made, wanted)
    return found | {"seconds": round(time.monotonic() - began, 1)}


@click.command()
@click.argument("names", nargs=-1, metavar="[FORMAT]...")
@click.option("--blocks", type=click.IntRange(min=1), default=1 << 20, show_default=True, help="Blocks to read.")
@click.option("--quantized", type=click.IntRange(min=1), default=1 << 15, show_default=True, help="Blocks to write.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here as JSON.")
def main(names: tuple[str, ...], blocks: int, quantized: int, seed: int, output: Path | None) -> None:
    """Compare FORMATs (all block formats if none is given) with ggml, bit for bit; exit code 1 if anything differs.

    Example: PYTHONPATH=/tmp/libgguf scripts/check_formats.py Q4_K MXFP4
    """
    chosen = [fmt for fmt in FORMATS.values() if fmt.quantized and (not names or fmt.name in names)]
    unknown = set(names) - {fmt.name for fmt in chosen}
    if unknown:
        known = ", ".join(fmt.name for fmt in FORMATS.values() if fmt.quantized)
        raise click.UsageError(f"no block format is called {', '.join(sorted(unknown))}; known: {known}")
    results = []
    for fmt in chosen:
        results.append(check(fmt, blocks, quantized, seed))
        print(" ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
    judges = {name: version(name) for name in ("gguf", "libgguf", "torch")}
    if output:
        output.write_text(json.dumps({"seed": seed, "versions": judges, "formats": results}, indent=1) + "\n")
    sys.exit(any(value for result in results for key, value in result.items() if "unlike" in key))


if __name__ == "__main__":
    main()
