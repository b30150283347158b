"""Extreme norm weights and activations: a K-norm weight of 96.5 turns an error of 0.0005 into 0.05."""

from collections.abc import Iterator

import numpy as np

from autotune.precision.precision_result import Activation, NormWeight
from kernel_templates import formats
from model.gguf_file import GGUFFile
from model.reference import LayerTrace


def norm_weights(file: GGUFFile) -> Iterator[NormWeight]:
    """The largest weight of each norm in the file; channels are in the file's order."""
    for name in file.tensors:
        if "norm" not in name or not name.endswith(".weight"):
            continue
        values = _vector(file, name)
        sizes = np.abs(values)
        channel = int(sizes.argmax())
        parts = name.split(".")
        layer = int(parts[1]) if parts[0] == "blk" else None
        yield NormWeight(name, layer, channel, float(values[channel]), float(np.median(sizes)))


def activation(layer: int, trace: LayerTrace) -> Activation:
    """The largest element of the residual stream after a layer."""
    x = trace.after
    position, channel = divmod(int(x.abs().argmax()), x.shape[1])
    rms = float(x.double().square().mean().sqrt())
    return Activation(layer, position, channel, float(x[position, channel]), rms)


def _vector(file: GGUFFile, name: str) -> np.ndarray:
    """float32 [size]."""
    from torch import from_numpy

    return formats.get(file.tensors[name].format_name).dequantize(from_numpy(file.copied(name))).numpy().reshape(-1)
