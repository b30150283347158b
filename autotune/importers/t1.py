"""T1, the auto-tuning community's description of a space: parameters with their values, and conditions between them.

Our rules are Python functions. Each becomes an expression by trying it on all values of the parameters it looks at:
what it allows, or what it refuses if that is shorter, as a list. So a T1 file's space is exactly ours. The format is
that of github.com/odgaard/TuningSchema; SCHEMA says what we write of it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autotune import UserError
from autotune.importers import files
from autotune.importers.importer import Exporter
from kernel_templates.problem import Problem
from kernel_templates.space import Constraint, Space, Value
from tuning_db.records import StoredRun, Trial

TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string"}
_WORDS = {"type": "array", "items": {"type": "string"}}
SCHEMA: dict[str, Any] = {
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


class _Watched(Mapping[str, Value]):
    """A configuration that remembers which parameters were asked for."""

    def __init__(self, values: Mapping[str, Value], asked: dict[str, None]):
        self._values, self._asked = values, asked

    def __getitem__(self, name: str) -> Value:
        self._asked[name] = None
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def document(stored: StoredRun, _: Sequence[Trial]) -> dict[str, Any]:
    """The space that a run searched. Raises UserError for a run of another tool's problem."""
    from kernel_templates import registry  # here, not above: what only reads a profile needs no torch

    try:
        problem = registry.parse_problem(stored.run.problem)
        space = registry.space(problem, stored.device)
    except ValueError as error:
        raise UserError(f"run {stored.id} is of no problem of ours: {error}") from None
    return space_document(problem, space, stored.device.backend)


def space_document(problem: Problem, space: Space, backend: str) -> dict[str, Any]:
    """A problem's space. The format has no word for Triton or Numba: the language is CUDA, and the kernel's file says
    what it really is; sizes of the grid are the template's business. Raises UserError if this is not T1."""
    made = {
        "ConfigurationSpace": {
            "TuningParameters": [
                {"Name": p.name, "Type": TYPES[type(p.default)], "Values": repr(list(p.values))}
                for p in space.parameters
            ],
            "Conditions": [_condition(space, constraint) for constraint in space.constraints],
        },
        "General": {"FormatVersion": 1},
        "KernelSpecification": {
            "Language": "CUDA",
            "KernelName": problem.key,
            "KernelFile": f"kernel_templates/{problem.op}/{backend}.py",
            "GlobalSize": {"X": "see KernelFile"},
            "LocalSize": {"X": "see KernelFile"},
        },
    }
    files.check_schema(made, SCHEMA, f"{problem.key} as T1")
    return made


def _condition(space: Space, constraint: Constraint) -> dict[str, Any]:
    values = {p.name: p.values for p in space.parameters}
    asked: dict[str, None] = {}
    constraint.holds(_Watched(space.default, asked))
    names: list[str] = []
    while names != list(asked):  # a rule may look at more parameters once others have other values
        names = list(asked)
        points = list(itertools.product(*(values[name] for name in names)))
        default = dict(space.default)
        allowed = [bool(constraint.holds(_Watched({**default, **_named(names, p)}, asked))) for p in points]
    inside = [p for p, ok in zip(points, allowed, strict=True) if ok]
    outside = [p for p, ok in zip(points, allowed, strict=True) if not ok]
    word, listed = ("in", inside) if len(inside) <= len(outside) else ("not in", outside)
    expression = f"({', '.join(names)},) {word} {listed!r}" if names else str(all(allowed))
    return {"Name": constraint.name, "Reason": constraint.reason, "Parameters": names, "Expression": expression}


def _named(names: Sequence[str], point: Sequence[Value]) -> dict[str, Value]:
    return dict(zip(names, point, strict=True))


EXPORTER = Exporter("t1", document)
