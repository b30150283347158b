"""What T4 and T1 documents must look like: checked before one is written, and when one is read.

The formats are those of the auto-tuning community (github.com/odgaard/TuningSchema; Kernel Tuner and the Auto-Tuning
Association's benchmark hub use them). These say what we read and write of them; a test holds what we write against the
schemas that Kernel Tuner carries.
"""

from typing import Any

import jsonschema

from autotune import UserError

INVALIDITY = ("timeout", "compile", "runtime", "correctness", "constraints", "correct")
_MEASUREMENT = {
    "type": "object",
    "required": ["name", "value"],
    "properties": {
        "name": {"type": "string"}, "value": {"type": ["number", "string", "array"]}, "unit": {"type": "string"},
    },
}  # fmt: skip
T4: dict[str, Any] = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "schema_version": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "metadata": {"type": "object"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["configuration", "times", "invalidity", "correctness"],
                "properties": {
                    "configuration": {"type": "object"},
                    "times": {"type": "object"},
                    "invalidity": {"enum": list(INVALIDITY)},
                    "correctness": {"type": "number"},
                    "measurements": {"type": "array", "items": _MEASUREMENT},
                    "objectives": {"type": "array"},
                    "timestamp": {"type": "string"},
                },
            },
        },
    },
}
_WORDS = {"type": "array", "items": {"type": "string"}}
T1: dict[str, Any] = {
    "type": "object",
    "required": ["ConfigurationSpace", "KernelSpecification"],
    "properties": {
        "ConfigurationSpace": {
            "type": "object",
            "required": ["TuningParameters"],
            "properties": {
                "TuningParameters": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Name", "Type", "Values"],
                        "properties": {
                            "Name": {"type": "string"},
                            "Type": {"enum": ["int", "uint", "float", "bool", "string"]},
                            "Values": {"type": "string"},
                        },
                    },
                },
                "Conditions": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Parameters", "Expression"],
                        "properties": {"Parameters": _WORDS, "Expression": {"type": "string"}},
                    },
                },
            },
        },
        "General": {"type": "object", "properties": {"FormatVersion": {"type": "integer"}}},
        "KernelSpecification": {
            "type": "object",
            "required": ["Language", "KernelName", "KernelFile", "GlobalSize", "LocalSize"],
            "properties": {"Language": {"enum": ["OpenCL", "CUDA", "Vulkan", "Hypertuner"]}},
        },
    },
}


def check(document: Any, schema: dict[str, Any], what: str) -> None:
    """Raises UserError with the first thing that is wrong; what: names the document."""
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(document))
    if wrong is not None:
        where = "/".join(map(str, wrong.absolute_path)) or "the document"
        raise UserError(f"{what} is no such document: {where}: {wrong.message[:160]}")
