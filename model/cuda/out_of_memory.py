"""Device memory that runs out: one line that says what did not fit and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.errors import ModelError

FOR_CONTEXT = "give a smaller --context"
FOR_WEIGHTS = "free memory on the GPU, use a smaller model, or --device cpu"


@contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Turn torch's out-of-memory error inside into a ModelError about `what`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ModelError(f"the GPU's memory does not hold {what}{_free()}; {advice}") from None


def _free() -> str:
    if not torch.cuda.is_available():
        return ""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return f" ({free / 1e9:.1f} of {total / 1e9:.1f} GB are free)"
