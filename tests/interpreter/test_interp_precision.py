"""The GPU's kernels alone on exact inputs, in Triton's interpreter: close, and a planted error is seen where it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from test_interp_engine import interpreted, tokens_of

from autotune.precision.kernels_alone import CudaKernels, kernels_of
from autotune.precision.operation_errors import decode_errors, in_kernels_order, prompt_errors
from autotune.precision.precision_result import OperationError
from autotune.precision.prompt_alone import prompt_of
from model.engine import Model
from model.reference import LayerTrace, reference_hidden

Made = Callable[[str, str], Path]
LAYER, POSITION = 1, 2
GEMMA4 = Path(__file__).resolve().parents[1] / "fixtures" / "models" / "gemma4.gguf"


def errors(engine: Model, trace: LayerTrace, layer: int = LAYER) -> dict[tuple[str, str], OperationError]:
    """Of one layer, by path and name."""
    kernels, exact = kernels_of(engine.runner), in_kernels_order(engine.config, layer, trace)
    assert isinstance(kernels, CudaKernels)
    rows = [
        *decode_errors(kernels, layer, exact, [POSITION]),
        *prompt_errors(kernels, prompt_of(engine.runner), layer, exact),
    ]
    return {(row.path, row.name): row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny-qwen3", "tiny", "tiny-gemma3"])
def test_a_planted_error_is_seen(made: Made, shape: str) -> None:
    """tiny turns neighbouring pairs; tiny-gemma3 has post norms and a window."""
    engine, traces = interpreted(made(shape, "Q4_0")), []
    reference_hidden(engine.file, tokens_of(3), engine.context, lambda layer, trace: traces.append(trace))
    clean = errors(engine, traces[LAYER])
    assert len(clean) == 14
    assert all(row.worst < 2e-3 for row in clean.values()), clean
    norm = "k_norm" if engine.config.architecture.qk_norm else "ffn_norm"
    engine.runner.decoder.model.layers[LAYER].buffers[norm][3] *= 1.5
    found = errors(engine, traces[LAYER])
    wrong = {name for name, row in found.items() if row.worst > 10 * clean[name].worst}
    planted = "norm_qkv_rope (keys)" if norm == "k_norm" else "ffn"
    assert {("decode", planted), ("prompt", planted)} <= wrong
    # Where attention's kernel finishes heads, a K-norm is part of attention too.
    assert {name for _, name in wrong} <= {planted, "layer", "attention"}


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 2])
def test_a_layer_s_part_of_what_layers_share(layer: int) -> None:
    """Heads of the last layer are larger than those of the others: so are the buffers of all."""
    engine, traces = interpreted(GEMMA4), []
    reference_hidden(engine.file, tokens_of(3), engine.context, lambda _, trace: traces.append(trace))
    found = errors(engine, traces[layer], layer)
    assert len(found) == 14 and all(row.worst < 3e-3 for row in found.values()), found
