"""Tables of scripts/bench_matmul: a matrix's product alone, by algorithm and number of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from readme_tables.measured import none_yet, results, span

NEAR_THE_BEST = 1.1
"""Times the best of a product's three ways that its own algorithms are to stay within."""


def gpu_matmul() -> str:
    """The product alone: the fastest algorithm at each number of tokens and how it stands to the best of all, the
    library's product of an expanded matrix included; then every row with its rates."""
    parts = []
    for chip, documents in results("matmul").items():
        cells: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
        for document in sorted(documents, key=lambda d: d["date"]):
            newest: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
            for row in document["results"]:
                newest.setdefault((row["format"], row["shape"]), {}).setdefault(row["tokens"], []).append(row)
            for product, by_tokens in newest.items():  # what took turns stays together
                cells.setdefault(product, {}).update(by_tokens)
        library = documents[0]["library"]
        tokens = sorted({count for by_tokens in cells.values() for count in by_tokens})
        lines = [f"| {chip} | {' | '.join(f'{n:,}' for n in tokens)} |", "|---" * (len(tokens) + 1) + "|"]
        expanded = [
            f"| tokens | algorithm | µs | TB/s | TFLOP/s | expand + {library} | {library} alone | of the best |"
        ]
        expanded.append("|---" * 8 + "|")
        near = 0
        for (form, shape), by_tokens in cells.items():
            shown = [_won(by_tokens.get(n, []), library) for n in tokens]
            lines.append(f"| {shape} {form} | {' | '.join(shown)} |")
            expanded.append(f"| **{shape} {form}** |" + " |" * 7)
            for count, rows in sorted(by_tokens.items()):
                if (cell := _matmul_cells(rows, library)) is not None:
                    near += cell[-1] <= NEAR_THE_BEST
                    expanded.append(f"| {count:,} | {' | '.join(cell[:-1])} | {cell[-1]:.2f}× |")
        days, total = span(d["date"][:10] for d in documents), sum(len(by_tokens) for by_tokens in cells.values())
        words = [
            f"{chip}, {days}. The fastest of our algorithms, its microseconds, and those as a multiple of the best of "
            f"three: ours, expanding and {library} (`library`), and {library} of a matrix expanded before, which reads "
            f"3.5 times the bytes of a format of 4 bits. Within 10% of the best: {near} of {total}."
        ]
        missing = sum(d.get("missing", 0) for d in documents)
        words += [f"Cut by its time limit: {missing} products are missing."] if missing else []
        if all(d.get("candidates", 1) == 1 for d in documents):
            words.append("Each algorithm at its default configuration.")
        details = ["<details><summary>Every product</summary>", "", *expanded, "", "</details>"]
        parts.append("\n".join([*lines, "", " ".join(words), "", *details]))
    return "\n\n".join(parts) or none_yet("./scripts/bench_matmul")


def _won(rows: Sequence[Mapping[str, Any]], library: str) -> str:
    """The fastest of ours; how far it is from the best where another is faster."""
    cell = _matmul_cells(rows, library)
    if cell is None:
        return "–"
    far = f" **{cell[-1]:.2f}×**" if cell[-1] > NEAR_THE_BEST else f" {cell[-1]:.2f}×"
    return f"{cell[1]} {cell[0]}{far}"


def _matmul_cells(rows: Sequence[Mapping[str, Any]], library: str) -> tuple[str, str, str, str, str, str, float] | None:
    """Algorithm, µs, TB/s and TFLOP/s of the fastest of ours; µs of the library with and without expanding; and the
    fastest of ours as a multiple of the best. None if none of ours was measured."""
    ours = min((row for row in rows if row["algorithm"] != library), key=lambda row: row["us"], default=None)
    if ours is None:
        return None
    both = [next((f"{r['us']:.1f}" for r in rows if r["algorithm"] == name), "–") for name in ("library", library)]
    ratio = ours["us"] / min(row["us"] for row in rows)
    rates = f"{ours['tb_s']:.2f}", f"{ours['tflop_s']:,.0f}"
    return ours["algorithm"], f"{ours['us']:.1f}", *rates, both[0], both[1], ratio
