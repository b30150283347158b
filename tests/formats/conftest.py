"""Fixtures of the format tests: every format in turn, and ggml's own quantizer where its library is installed."""

import ctypes
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kernel_templates.formats import FORMATS, Format


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and the bits must not depend on them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def each(but: tuple[str, ...] = ()) -> dict:
    """Fixture parameters: every format except those named in `but`."""
    chosen = [fmt for name, fmt in FORMATS.items() if name not in but]
    return {"params": chosen, "ids": [fmt.name for fmt in chosen]}


@pytest.fixture(**each())
def fmt(request) -> Format:
    return request.param


@pytest.fixture(**each(but=("F16", "BF16", "F32")))
def block_fmt(request) -> Format:
    return request.param


@pytest.fixture(**each(but=("Q6_K",)))
def gguf_fmt(request) -> Format:
    """A format that the gguf package can quantize; Q6_K is judged by ggml's library and by golden bytes."""
    return request.param


def ggml_library() -> Path | None:
    """libggml-base of the llama_cpp package here, or the file that GGML_BASE_LIBRARY names."""
    if named := os.environ.get("GGML_BASE_LIBRARY"):
        return Path(named)
    spec = importlib.util.find_spec("llama_cpp")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("lib/libggml-base.*")):
            return path
    return None


@pytest.fixture(scope="session")
def ggml_quantize():
    """(Format, float32 [rows, cols]) → uint8 [rows, bytes] by ggml_quantize_chunk, without an importance matrix."""
    path = ggml_library()
    if path is None:
        pytest.skip("no libggml-base: install llama-cpp-python, or name the file in GGML_BASE_LIBRARY")
    chunk = ctypes.CDLL(str(path)).ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]

    def quantize(fmt: Format, x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        out = np.zeros((len(x), fmt.row_bytes(x.shape[1])), np.uint8)
        assert chunk(fmt.ggml_type, x.ctypes.data, out.ctypes.data, 0, *x.shape, None) == out.size
        return out

    return quantize
