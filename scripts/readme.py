"""Writes measured numbers and the tree of the sources into the documents: what stands between `<!-- name -->` marks.

python scripts/readme.py          # after any of the commands that benchmarks/README.md lists

Numbers come from files in benchmarks/, tables from scripts/readme_tables. A GPU's files lie in a folder of its own,
benchmarks/h100/ for instance; where there is none yet, the document says so.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tree import tree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # whose registries are listed

from readme_tables import beside_decoding, declarations, decoding, exactness, measured, products
from readme_tables.measured import ROOT


def gpu_demo() -> str:
    """What scripts/demo printed on each GPU."""
    texts = [f"```\n{path.read_text().strip()}\n```" for path in sorted(measured.BENCHMARKS.glob("*/demo.txt"))]
    return "\n\n".join(texts) or measured.none_yet("./scripts/demo > benchmarks/CHIP/demo.txt")


def architecture() -> str:
    return f"```\n{tree()}\n```"


def filled(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The text with every part between its marks. Raises ValueError for a part that has none."""
    for name, part in parts.items():
        new = f"<!-- {name} -->\n{part()}\n<!-- /{name} -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, new=new: new, text, flags=re.S)
        if count != 1:
            raise ValueError(f"there are {count} places for {name}")
    return text


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"headline": decoding.headline, "wide": decoding.gpu_wide, "runs": declarations.runs},
    "docs/models.md": {
        "architectures": declarations.architectures,
        "formats": declarations.weight_formats,
        "distances": exactness.distances,
        "experts": beside_decoding.split_experts,
    },
    "docs/architecture.md": {"tree": architecture},
    "benchmarks/README.md": {
        "demo": lambda: f"```\n{(measured.BENCHMARKS / 'demo.txt').read_text().strip()}\n```",
        "peer": lambda: "\n\n".join(decoding.peer(document) for document in measured.cpu("cpu")),
        "accuracy": lambda: exactness.accuracy(
            {"models": {k: v for d in measured.cpu("accuracy_cpu") for k, v in d["models"].items()}}
        ),
        "gpu": decoding.gpu,
        "gpu-wide": decoding.gpu_wide,
        "gpu-matmul": products.gpu_matmul,
        "gpu-builds": beside_decoding.builds,
        "gpu-memory": beside_decoding.gpu_memory,
        "gpu-speculation": beside_decoding.gpu_speculation,
        "starts": beside_decoding.starts,
        "gpu-token": decoding.gpu_token,
        "gpu-accuracy": exactness.gpu_accuracy,
        "gpu-demo": gpu_demo,
    },
}


def main() -> None:
    for name, parts in DOCUMENTS.items():
        path = ROOT / name
        path.write_text(filled(path.read_text(), parts))


if __name__ == "__main__":
    main()
