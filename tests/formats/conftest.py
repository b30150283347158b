"""Fixtures of the format tests: every format in turn."""

from collections.abc import Callable

import pytest
import torch
from format_samples import gguf_can_quantize

from kernel_templates.formats import FORMATS, Format


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and the bits must not depend on them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def each(wanted: Callable[[Format], bool] = lambda fmt: True) -> dict:
    """Fixture parameters: every format that is wanted."""
    chosen = [fmt for fmt in FORMATS.values() if wanted(fmt)]
    return {"params": chosen, "ids": [fmt.name for fmt in chosen]}


@pytest.fixture(**each())
def fmt(request) -> Format:
    return request.param


@pytest.fixture(**each(lambda fmt: fmt.quantized))
def block_fmt(request) -> Format:
    return request.param


@pytest.fixture(**each(gguf_can_quantize))
def gguf_fmt(request) -> Format:
    """A format that the gguf package can quantize; the others are judged by recorded bytes alone."""
    return request.param
