"""Random tensors of a model in the formats that ggml's quantizer would choose, for scripts/make_model.py.

2 million normal values are quantized once for each format and standard deviation, and every matrix draws whole blocks
from that pool at random (of 32 values, or of 256 in super-blocks). So any block is a real quantized block, the
distribution over a matrix is the normal one, and one tensor at a time is in memory.
"""

import math

import numpy as np

from kernel_templates.formats import FORMATS, get
from kernel_templates.formats.layout import Blocks
from model.config import ModelConfig
from model.layer_plan import plan

HEAD_BITS = 6  # what ggml gives the head at least
POOL_VALUES = 1 << 21
MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
"""Types of files that give some tensors more bits than most; IQ4_XS, called after a format, does too."""
EXPERTS = {"MXFP4_MOE": ("Q8_0", "MXFP4")}
"""Types of files that give experts another format than the rest: both."""
QUANTS = (*FORMATS, *MIXTURES, *EXPERTS)
NARROW = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
"""What ggml's quantizer takes for rows that are no whole super-blocks."""
DOWN = ("down", "shared_down")
K_NORM_PEAK = 96.5


def tensor_format(
    shape: tuple[int, ...], quant: str, head: bool = False, place: tuple[str, int] = ("", 0),
    config: ModelConfig | None = None,
) -> str:  # fmt: skip
    """Which format ggml's quantizer would give a tensor in a file of type `quant`, without an importance matrix.

    head: the matrix that gives logits, the embedding where it is that too; place: what the plan calls the tensor, and
    its layer in a model of `config`. From llama.cpp's src/llama-quant.cpp.
    """
    if is_vector(shape, place[0]) or place[0] == "router":
        return "F32"
    if quant in EXPERTS:
        quant = EXPERTS[quant][len(shape) == 3]
    fmt = get(MIXTURES.get(quant, quant))
    if head and isinstance(fmt.layout, Blocks) and fmt.layout.quants.bits < HEAD_BITS:
        fmt = get("Q6_K")
    elif config is not None:
        fmt = get(_with_more_bits(quant, *place, config) or fmt.name)
    return fmt.name if shape[-1] % fmt.block == 0 else NARROW[fmt.name]


def is_vector(shape: tuple[int, ...], what: str) -> bool:
    """Whether no product reads a tensor, which the plan calls `what`."""
    return len(shape) == 1 or what == "conv" or what.endswith("_bias")


def _with_more_bits(quant: str, what: str, layer: int, config: ModelConfig) -> str | None:
    """The format of tensors to which a mixture gives more than to the rest. Q, K and V in one tensor count as V."""
    layers = config.layers
    if quant in MIXTURES:
        first, last, third = layer < layers // 8, layer >= 7 * layers // 8, (layer - layers // 8) % 3 == 2
        return "Q6_K" if what in ("v", "qkv", *DOWN) and (first or last or third) else None
    if quant == "IQ4_XS":
        sizes = config.layer(layer)
        grouped, early = sizes.heads // sizes.kv_heads >= 4, layer < layers // 8
        return "Q5_K" if (what == "v" and grouped) or (what in DOWN and early) else None
    return None


class Weights:
    """Random tensors of one model, bytes ready to be written."""

    def __init__(self, config: ModelConfig, rng: np.random.Generator) -> None:
        self._config, self._rng, self._pools = config, rng, {}
        planned = plan(config)
        self._output_norm = planned.output_norm.name
        layers = enumerate(planned.layers)
        self._places = {
            part.name: (what, i) for i, layer in layers for what, t in layer.tensors.items() for part in t.parts
        }
        largest = max(config.vocab, *(sizes.ffn for sizes in config.sizes)) * config.hidden
        self._values = min(POOL_VALUES, -(-largest // 256) * 256)

    def place(self, name: str) -> tuple[str, int]:
        """What the plan calls a tensor of a layer, and the layer."""
        return self._places.get(name, ("", 0))

    def vector(self, name: str, size: int) -> np.ndarray:
        """Norm weights, biases and all else that no product reads, float32 [size]."""
        what, layer = self.place(name)
        if what == "decay":
            weights = -np.exp(self._rng.uniform(-2.0, 2.8, size))
        elif what == "dt_bias":  # steps of 0.001 to 0.1, as Mamba begins with
            weights = np.log(np.expm1(np.exp(self._rng.uniform(-6.9, -2.3, size))))
        elif what == "conv":
            weights = self._rng.normal(0.0, 0.5, size)
        elif what == "shared_router":
            weights = self._rng.normal(0.0, size**-0.5, size)
        elif what.endswith("_bias"):
            weights = self._rng.normal(0.0, 0.3, size)
        elif what == "sinks":
            weights = self._rng.normal(1.0, 1.0, size)
        elif what == "k_norm":
            weights = np.minimum(self._rng.lognormal(0.4, 0.8, size), K_NORM_PEAK / 2)
            if layer % 4 == 0:
                weights[self._rng.integers(size)] = K_NORM_PEAK
        else:
            weights = self._rng.lognormal(0.0, 0.2, size) * (2.5 if name == self._output_norm else 1.0)
            if what == "q_norm" and self._config.architecture.attention_scale:
                weights *= size**-0.5  # nothing else divides the scores
        return weights.astype(np.float32)

    def matrix(self, name: str, shape: tuple[int, ...], form: str) -> np.ndarray:
        """A weight matrix in format `form`, or several behind each other, uint8 [rows, row bytes]."""
        *above, cols = shape
        rows, deviation = math.prod(above), cols**-0.5
        what, layer = self.place(name)
        mixture = self._config.layer(layer).mixture
        if what == "router" and mixture and mixture.beside:  # what it reads has a length of 1
            deviation = 1.5
        if what in ("out", *DOWN, "input_proj"):
            deviation /= (2 * self._config.layers) ** 0.5
        pool, block = self._pool(form, deviation)
        drawn = self._rng.integers(0, len(pool), rows * cols // block, dtype=np.uint32)
        return pool[drawn].view(np.uint8).reshape(rows, -1)

    def _pool(self, form: str, deviation: float) -> tuple[np.ndarray, int]:
        """Quantized blocks as opaque items, and how many values one holds."""
        import torch

        fmt = get(form)
        block = max(fmt.block, 32)  # float formats have no block; draw runs of 32 values as the others do
        key = form, deviation
        if key not in self._pools:
            values = self._rng.standard_normal(self._values, dtype=np.float32) * np.float32(deviation)
            data = fmt.quantize(torch.from_numpy(values)).contiguous().numpy()
            self._pools[key] = data.view(f"V{fmt.row_bytes(block)}")
        return self._pools[key], block
