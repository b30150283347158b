"""The inference engine: a GGUF file in, text out, through tuned kernels."""

from kernel_templates.cpu.openmp import wait_briefly
from model.errors import ModelError

wait_briefly()

__all__ = ["ModelError", "load"]


def __getattr__(name: str):
    # `model.load` without paying for torch and numba where only the error type is wanted.
    if name == "load":
        from model.engine import load

        return load
    raise AttributeError(f"module 'model' has no attribute {name!r}")
