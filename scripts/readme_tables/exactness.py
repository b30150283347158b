"""Tables of how near to the reference: scripts/accuracy, and the small models of every architecture."""

import json
from typing import Any

import numpy as np
from readme_tables.measured import ROOT, cpu, none_yet, results


def accuracy(document: dict[str, Any]) -> str:
    """Rows of accuracy_cpu.json, and how many greedy texts are the reference's."""
    lines = ["| | engine, path | top-1 | mean KL, nats |", "|---|---|---|---|"]
    for model, result in document["models"].items():
        for engine, paths in result["engines"].items():
            for path, row in paths.items():
                name = f"{model}, {result['tokens']} tokens"
                lines.append(f"| {name} | {engine}, {path} | {100 * row['top1']:.1f}% | {row['mean_kl']:.1e} |")
    for model, result in document["models"].items():
        if texts := result.get("texts"):
            same = ", ".join(f"{side} {count}" for side, count in texts["same"].items())
            lines.append(
                f"\nGreedy texts of {texts['tokens']} tokens that are the reference's, {model}, of "
                f"{texts['prompts']}: {same}."
            )
    return "\n".join(lines)


def cpu_accuracy() -> str:
    """Rows of every accuracy_cpu*.json."""
    return accuracy({"models": {k: v for d in cpu("accuracy_cpu") for k, v in d["models"].items()}})


def gpu_accuracy() -> str:
    """Rows of accuracy_*.json of every chip, and how many texts are the CPU's."""
    parts = []
    for chip, documents in results("accuracy_").items():
        table = accuracy({"models": {k: v for document in documents for k, v in document["models"].items()}})
        texts = [
            f"{d['texts']['same']} of {d['texts']['prompts']} greedy texts of {d['texts']['tokens']} tokens "
            f"({next(iter(d['models']))}) are the CPU's, token for token."
            for d in documents
            if "texts" in d
        ]
        parts.append("\n".join([table, "", " ".join([f"{chip}, {documents[0]['date'][:10]}.", *texts])]))
    return "\n\n".join(parts) or none_yet("./scripts/accuracy --device cuda:0")


def distances() -> str:
    """llama.cpp's part of tests/fixtures/models, which the tests hold ours against."""
    folder = ROOT / "tests" / "fixtures" / "models"
    document = json.loads((folder / "models.json").read_text())
    lines = ["| file | type, tensors | tokens | llama.cpp: mean KL, nats | top-1 |", "|---|---|---|---|---|"]
    for name, row in document["models"].items():
        peer = row["llama_cpp"]
        types = f"{row['type']}: {', '.join(row['types'])}"
        with np.load(folder / f"{name}.npz") as kept:
            tokens = len(kept["tokens"])
        lines.append(f"| {name} | {types} | {tokens} | {peer['mean_kl']:.1e} | {peer['top1']:.1%} |")
    versions = ", ".join(f"{package} {version}" for package, version in document["versions"].items())
    return "\n".join([*lines, "", f"{versions}."])
