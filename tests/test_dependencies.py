"""Every third-party import is declared, every declared package has its use, its reason and its pinned version."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("autotune", "kernel_templates", "model", "tuning_db")
PACKAGE_OF = {  # where the package is not called as its module
    "cpuinfo": "py-cpuinfo", "llama_cpp": "llama-cpp-python", "ncu_report": "ncu-report", "pynvml": "nvidia-ml-py",
    "kernel_tuner": "kernel-tuner",
}  # fmt: skip
# Imported only where scripts/seeded/launch.py runs: on the machine that records the fixtures.
ELSEWHERE = {"cupy"}


def declared() -> dict[str, set[str]]:
    """Package -> "required", or the extras that bring it; without the test tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"required": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, set[str]] = {}

    def add(group: str, requirements: list[str]) -> None:
        for requirement in requirements:
            name = normal(re.match(r"[\w.-]+", requirement)[0])
            if name == "autotune":
                for extra in re.search(r"\[(.*)\]", requirement)[1].split(","):
                    add(group, groups[extra])
            else:
                found.setdefault(name, set()).add(group)

    for group, requirements in groups.items():
        add(group, requirements)
    return {name: uses - {"test"} for name, uses in found.items() if uses != {"test"}}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(*folders: str) -> dict[str, str]:
    """Package -> a file that imports it."""
    ours = {*PRODUCT, "benchmarks", "scripts", "tests"}
    ours |= {path.stem for path in (ROOT / "scripts").rglob("*") if path.is_dir() or path.suffix == ".py"}
    ours |= {path.stem for path in (ROOT / "tests").rglob("*.py")}
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - ours - ELSEWHERE:
                found.setdefault(normal(PACKAGE_OF.get(top, top)), str(path.relative_to(ROOT)))
    return found


def table() -> dict[str, tuple[set[str], str]]:
    """Package -> (what it is needed by, why it) as docs/dependencies.md has it."""
    text = (ROOT / "docs" / "dependencies.md").read_text().partition("## Left out")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {normal(row[0]): (set(row[1].split(", ")), row[3]) for row in rows[2:]}


def test_what_is_imported_is_declared() -> None:
    known = declared()
    assert not {name: where for name, where in imported(*PRODUCT).items() if name not in known}
    # scripts/record_ggml_golden.py, scripts/screenshots.py, and scripts/peer, which builds what it imports
    undeclared = {"libgguf", "playwright", "llama-cpp-python"}
    undeclared |= {"sentencepiece", "transformers"}  # scripts/record_models installs them
    assert not {name: where for name, where in imported("scripts").items() if name not in {*known, *undeclared}}


def test_what_is_required_is_imported() -> None:
    used = imported(*PRODUCT)
    assert not {name for name, uses in declared().items() if "required" in uses} - used.keys()


def test_what_is_optional_is_imported_or_says_why_not() -> None:
    used, reasons = imported(*PRODUCT, "scripts"), table()
    unused = {name for name in declared() if name not in used}
    assert unused == {name for name, (_, why) in reasons.items() if "not imported here" in why}


def test_every_package_has_its_reason() -> None:
    assert {name: uses for name, (uses, _) in table().items()} == declared()


def test_every_package_has_a_version_that_was_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    by_hand = {"peer", "browse"}  # built from source, or not of this program
    assert not {name for name, uses in declared().items() if not uses <= by_hand} - pinned
