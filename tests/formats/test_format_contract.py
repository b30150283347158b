"""What every format promises its callers: numbers, shapes, and one clear line for a mistake."""

import itertools

import gguf
import numpy as np
import pytest
import torch

from kernel_templates import formats
from kernel_templates.formats import FORMATS


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_the_registry_finds_a_format_by_name_and_by_number(fmt):
    assert formats.get(fmt.name) is fmt
    assert formats.from_ggml(fmt.ggml_type) is fmt


def test_numbers_are_those_of_a_gguf_file(fmt):
    kind = gguf.GGMLQuantizationType[fmt.name]
    assert fmt.ggml_type == kind
    assert (fmt.block, fmt.block_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="IQ2_XS"):
        formats.get("IQ2_XS")
    with pytest.raises(ValueError, match="unknown ggml type 17;"):
        formats.from_ggml(17)


def test_row_bytes(fmt, block_fmt):
    assert fmt.row_bytes(1024) == fmt.quantize(weights(1024)).numel()
    with pytest.raises(ValueError, match=f"{block_fmt.name}.*{block_fmt.block + 1}"):
        block_fmt.row_bytes(block_fmt.block + 1)


@pytest.mark.parametrize("shape", [(512,), (3, 512), (2, 3, 512), (1, 256), (0, 512), (3, 0)])
def test_leading_dimensions_stay(fmt, shape):
    data = fmt.quantize(weights(*shape))
    assert data.dtype == torch.uint8 and data.shape == (*shape[:-1], fmt.row_bytes(shape[-1]))
    back = fmt.dequantize(data)
    assert back.dtype == torch.float32 and back.shape == shape


def test_views_read_like_copies(fmt):
    x = weights(512, 6).T
    assert torch.equal(fmt.quantize(x), fmt.quantize(x.contiguous()))
    data = fmt.quantize(x)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), data.flatten()])[1:].view(data.shape)  # an odd address
    strided = torch.cat([data, data], dim=1)[:, : data.shape[1]]
    for view in (shifted, strided, data[2:3]):
        assert torch.equal(fmt.dequantize(view), fmt.dequantize(view.clone()))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinity_and_nan_are_refused(fmt, value):
    x = weights(2, 256)
    x[1, 77] = value
    with pytest.raises(ValueError, match=f"^{fmt.name} cannot quantize .* infinity or NaN$"):
        fmt.quantize(x)


def test_other_dtypes_are_refused(fmt):
    with pytest.raises(ValueError, match=f"{fmt.name} quantizes float32, not torch.float64"):
        fmt.quantize(weights(256).double())
    for read in (fmt.dequantize, fmt.blocks):
        with pytest.raises(ValueError, match=f"{fmt.name} reads uint8, not torch.int8"):
            read(torch.zeros(2, fmt.block_bytes, dtype=torch.int8))


def test_partial_blocks_are_refused(block_fmt):
    with pytest.raises(
        ValueError, match=rf"{block_fmt.name}.*blocks of {block_fmt.block}.*\(2, {block_fmt.block + 16}\)"
    ):
        block_fmt.quantize(weights(2, block_fmt.block + 16))
    for read in (block_fmt.dequantize, block_fmt.blocks):
        with pytest.raises(ValueError, match=f"{block_fmt.name}.*{block_fmt.block_bytes} bytes"):
            read(torch.zeros(2, block_fmt.block_bytes + 1, dtype=torch.uint8))


def test_more_bits_lie_closer():
    x = weights(64, 1024)
    error = {name: float((f.dequantize(f.quantize(x)) - x).norm() / x.norm()) for name, f in FORMATS.items()}
    bits = {name: 8 * f.block_bytes / f.block for name, f in FORMATS.items()}
    for finer, coarser in itertools.permutations(FORMATS, 2):
        if bits[finer] >= bits[coarser] + 1:  # which halves the error: more than one scheme gains on another
            assert error[finer] < error[coarser], (finer, coarser)
    assert error["F32"] == 0 and error["F16"] < error["BF16"] and error["Q4_1"] < error["Q4_0"]
    assert np.isclose(error["Q4_0"], 0.087, atol=0.005)
