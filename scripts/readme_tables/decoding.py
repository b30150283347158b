"""Tables of scripts/bench_gpu and scripts/bench_peer: decoding, prompts and several texts, against llama.cpp."""

import json
from typing import Any

from readme_tables import measured
from readme_tables.measured import beside, none_yet, other_engine, peer_rates, results, span

HEADLINE = (
    "gemma3-270m-Q4_K_M", "qwen3-0.6b-Q4_0", "qwen3-0.6b-Q4_K", "qwen3-8b-Q4_0", "qwen3-8b-Q4_K", "qwen3-8b-Q5_K_M",
    "smollm2-135m-instruct",
)  # fmt: skip
"""The models of the README's table on a GPU; one row more is a CPU's."""


def headline() -> str:
    """A few rows: decoding on the GPU that was measured last, and on a CPU, each against llama.cpp."""
    lines = [
        "| model | tok/s | against llama.cpp | % of read bandwidth | device | date |",
        "|---|---|---|---|---|---|",
    ]
    by_chip = results().values()
    newest = max(by_chip, key=lambda documents: max(d["date"] for d in documents), default=[])
    named = {d["name"]: d for d in newest}
    for d in (named[name] for name in HEADLINE if name in named):
        other, quoted = max(other_engine(d).get("decode") or [0]), "" if d.get("peer") else " (quoted)"
        ratio = f"{d['summary']['decode_tok_s'] / other:.1f}×{quoted}" if other else "–"
        cells = (f"{d['summary']['decode_tok_s']:,.0f}", ratio, f"{d['summary']['share']:.0%}", d["device"]["chip"])
        lines.append(f"| {d['name']} | {' | '.join(cells)} | {d['date'][:10]} |")
    cpu = json.loads((measured.BENCHMARKS / "cpu.json").read_text())
    name, row = next((n, m["decode"]) for n, m in cpu["models"].items())
    share = row["ours_weight_gb_s"] / cpu["device"]["read_gb_s"]
    where = f"{cpu['protocol']['threads']} threads, {cpu['device']['chip']}"
    cells = (f"{row['ours_tok_s']['median']:,.0f}", f"{row['ratio']['median']:.1f}×", f"{share:.0%}", where)
    lines.append(f"| {name} | {' | '.join(cells)} | {cpu['date'][:10]} |")
    return "\n".join(lines)


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


def gpu() -> str:
    """Every model of every chip, the fastest first."""
    parts = []
    for chip, documents in results().items():
        first = documents[0]
        deep, settings = f"{first['summary']['depth']:,}", first["bench"]["settings"]
        columns = (
            "llama.cpp tok/s",
            "autotune tok/s",
            "ratio",
            "TB/s, % of read bandwidth",
            "kernels",
            f"at {deep}",
            "prefill tok/s",
        )
        lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        ordered = sorted(documents, key=lambda d: -d["summary"]["decode_tok_s"])
        lines += [f"| {' | '.join(_gpu_cells(document, first['summary']['depth']))} |" for document in ordered]
        reads = [d["device"]["read_gb_s"] for d in documents]
        runs = " or ".join(str(n) for n in sorted({d["bench"]["settings"]["runs"] for d in documents}))
        words = [
            f"{chip}, which reads {span(f'{bandwidth / 1e3:.2f}' for bandwidth in reads)} TB/s, "
            f"{span(d['date'][:10] for d in documents)}.",
            f"{settings['tokens']} greedy tokens from an empty context and after {deep} tokens, a prompt of "
            f"{settings['prompt']:,}, medians of {runs} runs; kernels are those of one token.",
        ]
        sources = sorted({d["marks"]["source"] for d in documents if d["marks"] and d["marks"]["decode"]})
        words += [f"The other side was not run beside it but quoted: {source}." for source in sources]
        builds = sorted({d["peer"]["build"]["build_commit"] for d in documents if d.get("peer")})
        if builds:
            words.append(
                f"llama.cpp's llama-bench ran on the same file right after (build {', '.join(builds)}; flash "
                "attention, the better of two settings; medians of its repetitions after the first, which is slower)."
            )
        parts.append("\n".join([*lines, "", " ".join(words)]))
    return "\n\n".join(parts) or none_yet("./scripts/bench_gpu")


def _gpu_cells(document: dict[str, Any], depth: int) -> list[str]:
    """depth: of the column for decoding after cached tokens; a document that has another says so."""
    s, mark = document["summary"], other_engine(document)
    other, ratio, prefill = "–", "–", f"{s['prefill_tok_s']:,.0f}"
    if mark.get("decode"):
        what = mark["engine"].removeprefix("llama.cpp").removeprefix(", ")
        other = "–".join(f"{rate:,}" for rate in mark["decode"]) + (f" ({what})" if what else "")
        ratio = f"**{s['decode_tok_s'] / max(mark['decode']):.2f}×**"
    if mark.get("prefill"):
        prefill += f" (llama.cpp {'–'.join(f'{rate:,}' for rate in mark['prefill'])})"
    read = f"{s['gb_s'] / 1e3:.2f}, {s['share']:.0%}"
    rates = [f"{s['decode_tok_s']:,.0f}", f"{s['deep_tok_s']:,.0f}"]
    if s["depth"] != depth:
        rates[1] += f" (at {s['depth']:,})"
    return [document["name"], other, rates[0], ratio, read, str(s["kernels_per_token"]), rates[1], prefill]


def gpu_wide() -> str:
    """Many tokens at once: prompts and several texts of every model of every chip, llama.cpp's beside them."""
    parts = []
    for chip, documents in results().items():
        measured = [d for d in documents if d["summary"].get("prompt_ms") or d["summary"].get("batch_tok_s")]
        if not measured:
            continue
        prompts = sorted({n for d in measured for n in d["summary"]["prompt_ms"]} - {"2048"}, key=int)
        texts = sorted({n for d in measured for n in d["summary"]["batch_tok_s"]}, key=int)
        columns = [
            *(f"prompt of {n}, ms" for n in prompts), "of 2,048, tok/s", *(f"{n} texts, tok/s" for n in texts)
        ]  # fmt: skip
        lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for d in sorted(measured, key=lambda d: -d["summary"]["decode_tok_s"]):
            s, theirs = d["summary"], peer_rates(d)
            cells = [beside(s["prompt_ms"].get(n), theirs.get(f"prompt_{n}"), int(n)) for n in prompts]
            cells.append(beside(s["prefill_tok_s"], theirs.get("prefill")))
            cells += [beside(s["batch_tok_s"].get(n), theirs.get(f"batch_{n}")) for n in texts]
            lines.append(f"| {d['name']} | {' | '.join(cells)} |")
        settings = measured[0]["bench"]["settings"]
        runs = " or ".join(str(n) for n in sorted({d["bench"]["settings"]["runs"] for d in measured}))
        together = f"{settings.get('text_prompt')} + {settings.get('text_tokens')}"
        words = (
            f"{chip}, {span(d['date'][:10] for d in measured)}, tuned; medians of {runs} runs. A prompt ends when its "
        )
        words += (
            f"first token is there. Texts of {together} tokens are decoded together, and the tokens of all are counted."
        )
        if any(d.get("peer") for d in measured):
            words += (
                " In brackets llama.cpp, on the same file right after, at the better of its settings; of its prompts "
                "the first repetition, which is slower, does not count."
            )
        parts.append("\n".join([*lines, "", words]))
    return "\n\n".join(parts) or none_yet("./scripts/bench_gpu")


def gpu_token(name: str = "qwen3-0.6b-Q4_0") -> str:
    """Where a token's time goes, for one model of each chip."""
    parts = []
    for chip, documents in results().items():
        for document in (d for d in documents if d["name"] == name):
            lines = [f"| {name} on {chip} | kernels | µs | µs each | MB | TB/s |", "|---|---|---|---|---|---|"]
            for row in document["bench"]["operations"]["tuned"]:
                size = f"{row['bytes'] / 1e6:.1f} | {row['gb_s'] / 1e3:.2f}" if row["bytes"] else "– | –"
                lines.append(f"| {row['kernel']} | {row['count']} | {row['us']:.1f} | {row['us_each']:.2f} | {size} |")
            parts.append("\n".join(lines))
    return "\n\n".join(parts) or none_yet(f"./scripts/bench_gpu {name}")
