"""Quant formats, one declaration a file, and the registry that finds them by name or by their number in a GGUF file."""

import importlib
import pkgutil

from kernel_templates.formats.base import Format


def _declared() -> dict[str, Format]:
    """What the files of this folder declare as FORMAT, by name, in the order of ggml's numbers."""
    names = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    members = [vars(importlib.import_module(name)) for name in names]
    found = [module["FORMAT"] for module in members if "FORMAT" in module]
    return {fmt.name: fmt for fmt in sorted(found, key=lambda fmt: fmt.ggml_type)}


FORMATS: dict[str, Format] = _declared()


def get(name: str) -> Format:
    """The format called `name`, such as "Q4_0". ValueError if there is none."""
    if name not in FORMATS:
        raise ValueError(f"unknown weight format {name}; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def from_ggml(type_number: int) -> Format:
    """The format with this number in a GGUF file. ValueError if there is none."""
    for fmt in FORMATS.values():
        if fmt.ggml_type == type_number:
            return fmt
    known = ", ".join(f"{fmt.ggml_type} ({fmt.name})" for fmt in FORMATS.values())
    raise ValueError(f"unknown ggml type {type_number}; known: {known}")


__all__ = ["FORMATS", "Format", "from_ggml", "get"]
