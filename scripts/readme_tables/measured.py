"""Files of benchmarks/ as tables read them, and how a rate stands beside another engine's."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peer.llama_bench import rate

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def cpu(name: str) -> list[dict[str, Any]]:
    """NAME.json and NAME_MODEL.json of benchmarks/."""
    return [json.loads(path.read_text()) for path in sorted(BENCHMARKS.glob(f"{name}*.json"))]


def results(prefix: str = "") -> dict[str, list[dict[str, Any]]]:
    """Chip -> documents of benchmarks/CHIP/*.json: those of scripts/bench_gpu, or those whose name has the prefix."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(BENCHMARKS.glob("*/*.json")):
        if path.name.startswith(prefix or "accuracy_") == bool(prefix):
            document = json.loads(path.read_text())
            if prefix or "bench" in document:  # not what other commands write into a chip's folder
                found.setdefault(document["device"]["chip"], []).append(document)
    return found


def none_yet(command: str) -> str:
    return f"*No measurement is committed yet; `{command}` writes one.*"


def other_engine(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a GPU's rates are held against: measured beside them, else quoted, else nothing."""
    if rates := peer_rates(document):
        decode, prefill = round(rates["decode_0"]), round(rates["prefill"])
        return {"engine": "llama.cpp", "decode": [decode], "prefill": [prefill]}
    return document["marks"] or {}


def peer_rates(document: Mapping[str, Any]) -> dict[str, float]:
    """llama.cpp's tokens per second at the better of its settings, if it ran beside. llama-bench's samples are judged
    here: files from before 2026-12 have means with the first, cold repetition."""
    measured = document.get("peer") or {"best_tok_s": {}, "settings": {}}
    warm: dict[str, float] = {}
    for setting in measured["settings"].values():
        for what, row in setting.items():
            if not what.startswith("batch"):
                warm[what] = max(rate(row["samples"]), warm.get(what, 0.0))
    return measured["best_tok_s"] | warm


def span(texts: Iterable[str]) -> str:
    """The least and the greatest of texts of one form."""
    found = sorted(set(texts))
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def beside(ours: float | None, theirs: float | None, tokens: int = 0) -> str:
    """Ours and, in brackets, the other engine's tokens a second; tokens: of a prompt whose milliseconds are shown,
    which ours are already."""
    if tokens:
        shown = "–" if ours is None else f"{ours:.2f}"
        return shown if theirs is None else f"{shown} ({1e3 * tokens / theirs:.1f})"
    shown = "–" if ours is None else f"{ours:,.0f}"
    return shown if theirs is None else f"{shown} ({theirs:,.0f})"
