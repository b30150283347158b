"""Torch without what it does on tensors that have no memory ("meta") in Python, which is a fifth of its import and
which nothing needs that runs a model on a GPU or compiles for one.

For processes that are ours alone, such as the command line and its workers: a compiler of torch's would miss it.
"""

import sys
from importlib import import_module
from types import ModuleType

LEFT_OUT = "torch._meta_registrations"
_nothing = ModuleType(LEFT_OUT)


def begin() -> None:
    """Have torch imported so, unless it is imported already."""
    if "torch" not in sys.modules:
        sys.modules[LEFT_OUT] = _nothing


def complete() -> bool:
    """Import what was left out; then torch is as everybody knows it. Whether there was anything."""
    if sys.modules.get(LEFT_OUT) is not _nothing:
        return False
    del sys.modules[LEFT_OUT]
    if "torch" in sys.modules:
        import_module(LEFT_OUT)
    return True
