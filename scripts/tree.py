"""The project's tree for docs/architecture.md: every file in one line, which is what its docstring begins with."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("autotune", "model", "tuning_db", "kernel_templates")
ALIKE = {
    "problem.py": "the shapes, with a key that identifies them in the database for good",
    "space.py": "parameters, constraints and a default, for each backend",
    "reference.py": "inputs, and outputs in float64",
    "work.py": "the bytes and operations that cannot be avoided",
    "cpu.py": "the Numba template",
    "cuda.py": "the Triton template",
}
"""What the folder of every operation has; said once."""
REST = {
    "tests": "as the packages are; interpreter/ runs the GPU's kernels without a GPU, gpu/ needs one",
    "benchmarks": "measured numbers, each written by a command; README.md says which",
    "docs": "architecture.md, this; cli.md, the command line; sharing.md, databases; log.md, what was tried",
    "findings": "how others' libraries, tools and devices behave otherwise than one would guess, as scripts",
}
WIDTH, LEAST = 94, 30  # characters of the text


def tree() -> str:
    lines = []
    for package in PACKAGES:
        lines += _folder(ROOT / package, 0)
    operation = [("kernel_templates/<op>/", "what the folder of every operation has:")]
    operation += [(f"  {name}", text) for name, text in ALIKE.items()]
    rest = [(f"{name}/", text) for name, text in REST.items()]
    return "\n".join(_line(*line) for line in (*lines, *operation, *_scripts(), *rest))


def _folder(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """A package, its files and then its folders."""
    indent = "  " * depth
    yield f"{indent}{folder.name}/", summary(folder / "__init__.py")
    operation = folder.parent.name == "kernel_templates" and (folder / "problem.py").exists()
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("__") and not (operation and path.name in ALIKE):
            yield f"{indent}  {path.name}", summary(path)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _folder(inner, depth + 1)


def _scripts() -> Iterator[tuple[str, str]]:
    """Commands, by the comment they begin with, and the Python files that are no command's own."""
    yield "scripts/", "what a person runs; PYTHON_ENV names a Python other than .venv's"
    folder = ROOT / "scripts"
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.suffix == "":
            yield f"  {path.name}", _short(path.read_text().splitlines()[1].lstrip("# "))
        elif path.suffix == ".py" and not path.with_suffix("").exists():
            yield f"  {path.name}", summary(path)
    yield "  peer/", "what comparisons share: workers, model files, facts about a run"
    for path in sorted(folder.glob("peer/*.py")):
        yield f"    {path.name}", summary(path)
    yield "  readme_tables/", "what readme.py writes, a file for each kind of table"
    for path in sorted(folder.glob("readme_tables/*.py")):
        yield f"    {path.name}", summary(path)


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    return _short(ast.get_docstring(ast.parse(path.read_text())) or "")


def _short(text: str) -> str:
    """The first sentence; of a long one what stands before a colon, or the clauses that fit."""
    sentence = re.split(r"(?<=[a-z0-9`)\]])\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0].rstrip(".")
    if len(sentence) <= WIDTH:
        return sentence
    starts = [sentence[: mark.start()] for mark in re.finditer(r"[:;,] ", sentence) if mark.start() <= WIDTH]
    whole = [start for start in starts if start.count("(") == start.count(")")]
    parts = [start for start in whole if len(start) >= LEAST and sentence[len(start)] in ":;"]
    return max(parts or whole or [sentence], key=len)


def _line(name: str, text: str) -> str:
    return f"{name:<26}{text}".rstrip()
