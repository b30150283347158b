"""Weights and bytes that are hard on a quantizer; their judges: ggml's own bytes, recorded, and the gguf package."""

import functools
from pathlib import Path

import gguf
import numpy as np

from kernel_templates.formats import Format
from kernel_templates.formats.layout import Floats

ROWS, COLS = 128, 256
RECORDED = Path(__file__).resolve().parent.parent / "fixtures" / "ggml"
F32_MAX = float(np.finfo(np.float32).max)
STORED_AS = {"F16": np.float16, "F32": np.float32}  # the gguf package takes these as numbers, the rest as bytes


@functools.cache
def recorded_weights() -> dict[str, np.ndarray]:
    """Name → float32 [rows, 256]: what `scripts/record_ggml_golden` quantized."""
    with np.load(RECORDED / "weights.npz") as file:
        names, rows, weights = file["names"], file["rows"], file["weights"]
    return dict(zip(names.tolist(), np.split(weights, np.cumsum(rows)[:-1]), strict=True))


@functools.cache
def recorded_bytes(name: str) -> dict[str, np.ndarray]:
    """The same weights' name → uint8 [rows, bytes of a row], by ggml's reference quantizer of a format."""
    weights = recorded_weights()
    data = np.load(RECORDED / f"{name}.npy")
    return dict(zip(weights, np.split(data, np.cumsum([len(x) for x in weights.values()])[:-1]), strict=True))


@functools.cache
def hard_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Name → float32 [128, 256], all finite."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, COLS)
    normal = rng.standard_normal(shape)
    zeros = rng.choice([0.0, -0.0], shape)
    spot = np.arange(COLS) == rng.integers(0, COLS, (ROWS, 1))
    bits = rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)
    samples = {
        "normal": normal,
        "sub-blocks of very different size": normal * np.exp2(rng.integers(-20, 20, (ROWS, 16))).repeat(16, axis=1),
        "elements of very different size": normal * np.exp2(rng.uniform(-140, 110, shape)),
        "scale subnormal in float16": normal * np.exp2(rng.uniform(-30, -10, (ROWS, 1))),
        "scale zero in float16": normal * np.exp2(rng.uniform(-100, -30, (ROWS, 1))),
        "around Q6_K's negligible magnitude": normal * 1e-15 * rng.uniform(0.01, 10, (ROWS, 1)),
        "subnormal in float32": normal * np.exp2(rng.uniform(-149, -120, (ROWS, 1))),
        "scale infinite in float16": normal * np.exp2(rng.uniform(16, 60, (ROWS, 1))),
        "squares infinite in float32": normal * np.exp2(rng.uniform(60, 125, (ROWS, 1))),
        "differences infinite in float32": np.sign(normal) * F32_MAX * rng.random(shape),
        "any finite bits": np.where(np.isfinite(bits), bits, 0),
        "one huge value": np.where(spot, 1e4 * normal, normal),
        "one value alone": np.where(spot, normal, 0),
        "ties of 4-bit rounding": rng.integers(-16, 17, shape) / 2,
        "ties of 8-bit rounding": rng.integers(-254, 255, shape) / 2,
        "largest with either sign": rng.choice([-1, 1], shape),
        "largest negative": -np.abs(normal),
        "constant": normal[:, :1].repeat(COLS, axis=1),
        "all zero": np.zeros(shape),
        "zeros of both signs": zeros,
        "zeros of both signs below positives": np.where(rng.random(shape) < 0.05, np.abs(normal), zeros),
        "zeros of both signs above negatives": np.where(rng.random(shape) < 0.05, -np.abs(normal), zeros),
    }
    return {name: x.astype(np.float32) for name, x in samples.items()}


def agreed(x: np.ndarray) -> np.ndarray:
    """x without what the gguf package treats otherwise than ggml does: signs of zeros, and magnitudes at which
    1 / scale or maximum - minimum leaves float32."""
    return np.where((np.abs(x) < 1e-30) | (np.abs(x) > 1e30), 0, x) + np.float32(0)


def gguf_can_quantize(fmt: Format) -> bool:
    try:
        gguf_quantize(fmt, np.zeros((1, COLS), np.float32))
    except NotImplementedError:
        return False
    return True


def gguf_quantize(fmt: Format, x: np.ndarray) -> np.ndarray:
    """float32 [rows, cols] → uint8 [rows, bytes]."""
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(x, gguf.GGMLQuantizationType(fmt.ggml_type)).view(np.uint8)


def gguf_dequantize(fmt: Format, data: np.ndarray) -> np.ndarray:
    """uint8 [rows, bytes] → float32 [rows, cols]."""
    data = data.view(STORED_AS.get(fmt.name, np.uint8))
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(fmt.ggml_type))


def with_finite_scales(fmt: Format, data: np.ndarray) -> np.ndarray:
    """uint8 [rows, bytes], with one exponent bit cleared in every scale (or value) so that none is infinity or NaN."""
    blocks = data.reshape(len(data), -1, fmt.block_bytes).copy()
    for last in exponent_bytes(fmt):
        blocks[..., last] &= 0xBF
    return blocks.reshape(data.shape)


def exponent_bytes(fmt: Format) -> list[int]:
    """Where a block's floating-point numbers have their exponents' upper bits."""
    if isinstance(fmt.layout, Floats):
        return [fmt.block_bytes - 1]
    scales = [] if fmt.layout.exponent else [fmt.layout.scale]
    return [at + 1 for at in (*scales, fmt.layout.minimum) if at is not None]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the last bit, the sign of zero included."""
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
