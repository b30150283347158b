"""What the kernels of a token read, by the launches and the weights of models loaded without a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autotune.benchmarking import token_time
from kernel_templates import registry
from kernel_templates.cuda.launch import INTERPRETED
from kernel_templates.device import Device
from model.config import ModelConfig
from model.cuda.decode import Decoder
from model.cuda.execution import EagerExecutor
from model.cuda.load import load
from model.gguf_file import open_gguf
from model.problems import head_problem, layer_at

H100 = Device("cuda", "H100", "9.0", 132, 80 << 30)
POSITION = 40


@pytest.mark.parametrize("shape", ["tiny-qwen3", "tiny-qwen3moe", "tiny-gpt-oss", "tiny-qwen35moe"])
def test_kernels_read_what_a_token_must(made: Callable[[str, str], Path], shape: str) -> None:
    """Of a mixture the router, the experts that the token uses and the shared one, not all experts."""
    file = open_gguf(made(shape, "Q4_0"))
    config = ModelConfig.from_gguf(file)
    head = registry.cuda_space(head_problem(config, file), H100).default
    configs = [registry.cuda_space(layer_at(config, file, i, 160), H100).default for i in range(config.layers)]
    model = load(file, config, 64, lambda i: configs[i], head, None, torch.device("cpu"), lambda done, of: None)
    assert all(layer.mixture is None or layer.mixture.experts > layer.mixture.used for layer in model.layers)
    decoder = Decoder(model, lambda i, _: configs[i], head, None, EagerExecutor(INTERPRETED))
    sizes = token_time.bytes_by_kernel(list(decoder.launches("layers", 160)), model, POSITION)
    layers = sum(token_time.work_bytes(layer.problem.below(POSITION + 1)) for layer in model.layers)
    wanted = layers + token_time.work_bytes(model.head)
    print(f"{shape}: {sum(sizes.values())} bytes, {wanted} by the operations' work")
    assert sum(sizes.values()) == pytest.approx(wanted, rel=0.1)
