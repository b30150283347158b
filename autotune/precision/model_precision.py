"""Measures where a model loses precision: its logits, each operation alone, and the extremes that make errors large.

One float32 pass over the weights goes layer by layer, and what it computed of a layer is all that is in memory of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotune.peer import llama_process
from autotune.precision import extremes
from autotune.precision.divergence import divergence, reference_rows
from autotune.precision.kernels_alone import kernels_of
from autotune.precision.operation_errors import (
    NOT_ALONE,
    Errors,
    decode_errors,
    in_kernels_order,
    prompt_errors,
    runs_alone,
)
from autotune.precision.precision_result import (
    Activation,
    EngineDivergence,
    ModelPrecision,
    OperationError,
)
from autotune.precision.prompt_alone import prompt_of
from kernel_templates.cpu import machine
from model.config import ModelConfig
from model.engine import Model
from model.errors import ModelError
from model.gguf_file import GGUFFile
from model.reference import LayerTrace, reference_hidden
from model.tokenizer import Tokenizer

TEXT = Path(__file__).with_name("text.txt")
"""What is read where no other text is given."""

POSITIONS = 32
"""Positions at which the kernels of a decode step are run alone, spread evenly over the text."""

Progress = Callable[[str], None]


def read_tokens(file: GGUFFile, text: str, most: int) -> list[int]:
    """The first tokens of a text, no more than `most` and than the model was trained for. Raises ModelError for fewer
    than two."""
    most = min(most, ModelConfig.from_gguf(file).context - 1)
    tokens = Tokenizer.from_metadata(file.metadata).encode(text)[:most]
    if len(tokens) < 2:
        raise ModelError(f"the text has {len(tokens)} tokens for this model; give one of two or more")
    return tokens


def context_for(file: GGUFFile, tokens: Sequence[int]) -> int:
    """Positions of the KV cache that these tokens are measured with."""
    return min(2 * len(tokens), ModelConfig.from_gguf(file).context)


def measure(
    engine: Model,
    name: str,
    tokens: list[int],
    chip: str,
    path: Path | None = None,
    progress: Progress = lambda step: None,
) -> ModelPrecision:
    """Of a model opened with `context_for` these tokens. path: the file for llama.cpp, None for ours alone. Raises
    ModelError."""
    positions = sorted({round(p) for p in np.linspace(0, len(tokens) - 1, POSITIONS)})
    operations: list[OperationError] = []
    activations: list[Activation] = []
    kernels, prompt, config = kernels_of(engine.runner), prompt_of(engine.runner), engine.config

    def watch(layer: int, trace: LayerTrace) -> None:
        progress(f"layer {layer + 1} of {config.layers}: each operation alone")
        activations.append(extremes.activation(layer, trace))
        if not runs_alone(config.layer(layer)):
            return
        ordered = in_kernels_order(config, layer, trace)
        operations.extend(decode_errors(kernels, layer, ordered, positions))
        operations.extend(prompt_errors(kernels, prompt, layer, ordered))

    engine.reset()  # the cache is written over
    hidden = reference_hidden(engine.file, tokens, engine.context, watch)
    progress("the head alone")
    operations += _head_errors(engine, hidden, positions)
    engines = logits_of(engine, tokens, hidden, progress)
    skipped = sum(not runs_alone(sizes) for sizes in config.sizes)
    unlike = f"operations of {skipped} of {config.layers} layers are not measured alone ({NOT_ALONE})"
    notes = [unlike] if skipped else []
    if path is not None:
        theirs, note = peer_logits(path, engine, tokens, hidden, progress)
        engines, notes = [*engines, *theirs], [*notes, *([note] if note else [])]
    return ModelPrecision(
        name, chip, tuple(engines), tuple(operations), tuple(extremes.norm_weights(engine.file)),
        tuple(activations), notes=tuple(notes), settings={"tokens": len(tokens), "positions": len(positions)},
    )  # fmt: skip


def logits_of(engine: Model, tokens: list[int], hidden: Tensor, progress: Progress) -> list[EngineDivergence]:
    """Our logits through decode steps and through a prompt, against the reference's."""
    found = []
    for path in ("decode", "prompt"):
        progress(f"logits of {path}")
        rows = engine.logit_rows(tokens, stepwise=path == "decode")
        found.append(EngineDivergence("autotune", path, divergence(reference_rows(engine.file, hidden), rows)))
    return found


def peer_logits(
    path: Path, engine: Model, tokens: list[int], hidden: Tensor, progress: Progress
) -> tuple[list[EngineDivergence], str]:
    """llama.cpp's on the processor, where it is installed; else why not."""
    if not llama_process.installed():
        return [], "llama.cpp is not installed: ./scripts/setup_env peer"
    progress("logits of llama.cpp")
    found = []
    try:
        with llama_process.opened(path, tokens, engine.config.vocab, machine.thread_count()) as peer:
            for way in ("decode", "prompt"):
                rows = (next(peer.rows) for _ in tokens)
                found.append(EngineDivergence("llama.cpp", way, divergence(reference_rows(engine.file, hidden), rows)))
    except (llama_process.PeerError, RuntimeError) as error:
        return [], str(error)
    return found, ""


def _head_errors(engine: Model, hidden: Tensor, positions: Sequence[int]) -> list[OperationError]:
    errors, runner = Errors("decode", None), engine.runner
    for p, wanted in zip(positions, reference_rows(engine.file, hidden[list(positions)]), strict=True):
        found = runner.on_host(runner.decoder.predict(hidden[p], p))
        errors.add("head", torch.from_numpy(found)[None], wanted[None], p)
    return list(errors.rows())
