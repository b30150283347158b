#!/usr/bin/env python
"""Record what ggml's reference quantizers make of hard weights: tests/fixtures/ggml is made by this.

The quantizers are those of the package libgguf, which nothing else here needs: `pip install --target DIR libgguf`, then
PYTHONPATH=DIR. Formats that are not declared yet are recorded too, for those who will declare them.

Example: PYTHONPATH=/tmp/libgguf scripts/record_ggml_golden.py
"""

import sys
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "formats")]

from format_samples import RECORDED, hard_weights  # noqa: E402

FORMATS = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "MXFP4",
)  # fmt: skip
ROWS = 2  # of each sample: a row of 256 weights is one super-block, or eight blocks


def ramp(shrink: float = 1.0) -> np.ndarray:
    """float32 [1, 256] of exact fractions; every run of 16 has another size, so that sub-blocks differ."""
    i = np.arange(256, dtype=np.int64)
    fraction = ((i * i * 7 + i * 13) % 251 - 125) / 64
    return (fraction * np.exp2(-(i // 16 % 5)) * shrink).astype(np.float32)[None]


def patchy() -> np.ndarray:
    """Sub-blocks that are zero, negligible, constant, tied, of one sign and of one value, in one super-block."""
    x = ramp()[0].copy()
    x[:16], x[16:32], x[32:48] = 0, 1e-16, -0.75
    x[48:64] = np.where(np.arange(16) % 3, 0.5, -0.5)
    x[64:80] = np.abs(x[64:80])
    x[80:96] = 0
    x[90] = 3.0
    x[96:112] *= np.float32(1e-4)  # so small beside the others that a subscale rounds to 0
    return x[None]


def zeros(first: float, then: float) -> np.ndarray:
    """A zero of one sign before 31 of another, in every block of 32."""
    return np.tile(np.array([first] + [then] * 31, dtype=np.float32), 8)[None]


def samples() -> dict[str, np.ndarray]:
    """Name -> float32 [rows, 256]."""
    made = {f"ramp times {shrink:g}": ramp(shrink) for shrink in (1, -(2.0**-17), 2.0**-10, 2.0**-80, 2.0**21)}
    made |= {"patchy": patchy()}
    made |= {f"zeros, {first} before {then}": zeros(first, then) for first in (0.0, -0.0) for then in (0.0, -0.0)}
    return made | {name: x[:ROWS] for name, x in hard_weights().items()}


@click.command()
def main() -> None:
    """Write tests/fixtures/ggml: the weights, and a file of bytes for each format.

    Example: PYTHONPATH=/tmp/libgguf scripts/record_ggml_golden.py
    """
    import gguf
    import libgguf

    weights = samples()
    together = np.concatenate(list(weights.values()))
    RECORDED.mkdir(parents=True, exist_ok=True)
    rows = [len(x) for x in weights.values()]
    np.savez_compressed(RECORDED / "weights.npz", names=list(weights), rows=rows, weights=together)
    for name in FORMATS:
        kind = gguf.GGMLQuantizationType[name]
        data = libgguf.quantize_rows_raw(int(kind), together, *together.shape)
        np.save(RECORDED / f"{name}.npy", np.frombuffer(data, np.uint8).reshape(len(together), -1))
        print(f"{name}: {len(data)} bytes of {len(weights)} samples")


if __name__ == "__main__":
    main()
