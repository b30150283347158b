"""Put the measured numbers into README.md: what stands between `<!-- name -->` marks comes from files in benchmarks/.

python scripts/readme.py          # after scripts/demo > benchmarks/demo.txt, scripts/bench_peer, scripts/accuracy
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def peer(document: dict[str, Any]) -> str:
    """Rows of cpu.json."""
    lines = ["| | autotune tok/s | llama.cpp tok/s | ratio |", "|---|---|---|---|"]
    for model, result in document["models"].items():
        for goal in ("decode", "prefill"):
            ours, theirs, ratio = (result[goal][k] for k in ("ours_tok_s", "peer_tok_s", "ratio"))
            cells = [f"{s['median']:.0f} ({s['min']:.0f}–{s['max']:.0f})" for s in (ours, theirs)]
            lines.append(f"| {model}, {goal} | {cells[0]} | {cells[1]} | **{ratio['median']:.2f}×** |")
    chip, read = document["device"]["chip"], document["device"]["read_gb_s"]
    where = f"{document['protocol']['threads']} threads of {chip}, memory read at {read} GB/s"
    rounds, day = document["protocol"]["rounds"], document["date"][:10]
    lines.append(f"\nMedians and ranges of {rounds} rounds, ratios the median of the rounds' own; {where}, {day}.")
    return "\n".join(lines)


def accuracy(document: dict[str, Any]) -> str:
    """Rows of accuracy_cpu.json."""
    lines = ["| | engine, path | top-1 | mean KL, nats |", "|---|---|---|---|"]
    for model, result in document["models"].items():
        for engine, paths in result["engines"].items():
            for path, row in paths.items():
                name = f"{model}, {result['tokens']} tokens"
                lines.append(f"| {name} | {engine}, {path} | {100 * row['top1']:.1f}% | {row['mean_kl']:.1e} |")
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    parts = {
        "demo": lambda: f"```\n{(BENCHMARKS / 'demo.txt').read_text().strip()}\n```",
        "peer": lambda: peer(json.loads((BENCHMARKS / "cpu.json").read_text())),
        "accuracy": lambda: accuracy(json.loads((BENCHMARKS / "accuracy_cpu.json").read_text())),
    }
    for name, part in parts.items():
        filled = f"<!-- {name} -->\n{part()}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, new=filled: new, text, flags=re.S)
    readme.write_text(text)


if __name__ == "__main__":
    main()
