"""The architectures that the engine computes: one file each, known by lying in this folder."""

import importlib
import pkgutil

from model.architectures.base import Architecture


def _declared() -> dict[str, Architecture]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    found = (importlib.import_module(f"{__name__}.{name}").ARCHITECTURE for name in modules)
    return {architecture.name: architecture for architecture in found}


ARCHITECTURES = _declared()
"""By name, in alphabetical order."""
