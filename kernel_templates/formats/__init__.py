"""Quant formats, one file each, and the registry that finds them by name or by their number in a GGUF file."""

from kernel_templates.formats import bf16, f16, f32, q4_0, q4_1, q6_k, q8_0
from kernel_templates.formats.base import Format

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in (q4_0, q4_1, q8_0, q6_k, f16, bf16, f32)}


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
