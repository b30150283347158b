"""Writes measured numbers and the tree of the sources into the documents: what stands between `<!-- name -->` marks.

python scripts/readme.py          # after any of the commands that benchmarks/README.md lists

Numbers come from files in benchmarks/. A GPU's files lie in a folder of its own, benchmarks/h100/ for instance; where
there is none yet, the document says so.
"""

import ast
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peer.llama_bench import rate
from tree import tree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # whose registries are listed

from kernel_templates.formats import FORMATS
from model.architectures import ARCHITECTURES, Architecture

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


ORDINALS = {2: "second", 4: "fourth", 5: "fifth", 6: "sixth"}
HEADLINE = (
    "gemma3-270m-Q4_K_M", "qwen3-0.6b-Q4_0", "qwen3-0.6b-Q4_K", "qwen3-8b-Q4_0", "qwen3-8b-Q4_K", "qwen3-8b-Q5_K_M",
    "smollm2-135m-instruct",
)  # fmt: skip
"""The models of the README's table on a GPU; one row more is a CPU's."""
NEAR_THE_BEST = 1.1
"""Times the best of a product's three ways that its own algorithms are to stay within."""


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
    cpu = json.loads((BENCHMARKS / "cpu.json").read_text())
    name, row = next((n, m["decode"]) for n, m in cpu["models"].items())
    share = row["ours_weight_gb_s"] / cpu["device"]["read_gb_s"]
    where = f"{cpu['protocol']['threads']} threads, {cpu['device']['chip']}"
    cells = (f"{row['ours_tok_s']['median']:,.0f}", f"{row['ratio']['median']:.1f}×", f"{share:.0%}", where)
    lines.append(f"| {name} | {' | '.join(cells)} | {cpu['date'][:10]} |")
    return "\n".join(lines)


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


def cpu(name: str) -> list[dict[str, Any]]:
    """NAME.json and NAME_MODEL.json of benchmarks/."""
    return [json.loads(path.read_text()) for path in sorted(BENCHMARKS.glob(f"{name}*.json"))]


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


def none_yet(command: str) -> str:
    return f"*No measurement is committed yet; `{command}` writes one.*"


def results(prefix: str = "") -> dict[str, list[dict[str, Any]]]:
    """Chip -> documents of benchmarks/CHIP/*.json: those of scripts/bench_gpu, or those whose name has the prefix."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(BENCHMARKS.glob("*/*.json")):
        if path.name.startswith(prefix or "accuracy_") == bool(prefix):
            document = json.loads(path.read_text())
            if prefix or "bench" in document:  # not what other commands write into a chip's folder
                found.setdefault(document["device"]["chip"], []).append(document)
    return found


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
            f"{chip}, which reads {_span(f'{bandwidth / 1e3:.2f}' for bandwidth in reads)} TB/s, "
            f"{_span(d['date'][:10] for d in documents)}.",
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
            cells = [_beside(s["prompt_ms"].get(n), theirs.get(f"prompt_{n}"), int(n)) for n in prompts]
            cells.append(_beside(s["prefill_tok_s"], theirs.get("prefill")))
            cells += [_beside(s["batch_tok_s"].get(n), theirs.get(f"batch_{n}")) for n in texts]
            lines.append(f"| {d['name']} | {' | '.join(cells)} |")
        settings = measured[0]["bench"]["settings"]
        runs = " or ".join(str(n) for n in sorted({d["bench"]["settings"]["runs"] for d in measured}))
        together = f"{settings.get('text_prompt')} + {settings.get('text_tokens')}"
        words = (
            f"{chip}, {_span(d['date'][:10] for d in measured)}, tuned; medians of {runs} runs. A prompt ends when its "
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


def _span(texts: Iterable[str]) -> str:
    """The least and the greatest of texts of one form."""
    found = sorted(set(texts))
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _beside(ours: float | None, theirs: float | None, tokens: int = 0) -> str:
    """Ours and, in brackets, the other engine's tokens a second; tokens: of a prompt whose milliseconds are shown,
    which ours are already."""
    if tokens:
        shown = "–" if ours is None else f"{ours:.2f}"
        return shown if theirs is None else f"{shown} ({1e3 * tokens / theirs:.1f})"
    shown = "–" if ours is None else f"{ours:,.0f}"
    return shown if theirs is None else f"{shown} ({theirs:,.0f})"


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
        days, total = _span(d["date"][:10] for d in documents), sum(len(by_tokens) for by_tokens in cells.values())
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


def gpu_memory() -> str:
    """What many texts at once take of a GPU's memory."""
    lines = ["| | weights, GB | keys and values | torch at most | beyond both | the device beyond both |"]
    lines.append("|---" * 6 + "|")
    texts = []
    for chip, documents in results("memory").items():
        for document in documents:
            for name, found in document["bytes"].items():
                shown = (found[key] / 1e9 for key in ("weights", "kv", "peak", "beyond", "device_beyond"))
                lines.append(f"| {name} on {chip} | {' | '.join(f'{size:.2f}' for size in shown)} |")
            texts.append(f"{document['texts']} texts of {document['positions']:,} tokens, {document['date'][:10]}.")
    return "\n".join([*lines, "", *dict.fromkeys(texts)]) if texts else none_yet("./scripts/bench_memory")


def gpu_speculation() -> str:
    """What a pass over a few tokens costs in steps, and texts with proposals against without."""
    documents = [d for kind in ("speculate", "passes") for of_chip in results(kind).values() for d in of_chip]
    if not documents:
        return none_yet("./scripts/bench_speculate --device cuda:0")
    tokens = list(documents[0]["pass_in_steps_by_tokens"])
    headings = [*(f"a pass over {n} tokens" for n in tokens), "prompts that quote", "that do not"]
    lines = [f"| | a step, µs | {' | '.join(headings)} |", "|---" * (len(headings) + 2) + "|"]
    for d in documents:
        passes = [f"{d['pass_in_steps_by_tokens'][n]:.2f} steps" for n in tokens]
        found = [d["results"].get(of) for of in ("quoting", "own")]
        texts = [f"{of['ratio']:.2f}× (least {of['least']:.2f}×)" if of else "–" for of in found]
        cells = [f"{d['step_us']:.0f}", *passes, *texts]
        lines.append(f"| {d['model']} on {d['device']['chip']}, {d['date'][:10]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "As a caller waits for them, after 128 tokens; ratios are of tokens a second."])


def starts() -> str:
    """From the start of the process to its first token, on each device that was measured; alone, not beside others."""
    lines = ["| | on | first token, s: cold | warm | CPU seconds, warm | peak MB |", "|---" * 6 + "|"]
    texts = []
    for path in sorted([*BENCHMARKS.glob("start.json"), *BENCHMARKS.glob("*/start.json")]):
        document = json.loads(path.read_text())
        on = document["device"]["chip"] if path.parent == BENCHMARKS else document.get("gpu", path.parent.name.upper())
        for name, sides in document["models"].items():
            cold, warm = (sides["here"]["0"][kind] for kind in ("cold", "warm"))
            cells = [f"{kind['first_token_s']['median']:.2f}" for kind in (cold, warm)]
            cells += [f"{warm['cpu_s']['median']:.1f}", f"{warm['peak_mb']['median']:,.0f}"]
            lines.append(f"| {name} | {on} | {' | '.join(cells)} |")
        starts = len(warm["wall_s"]["samples"])
        texts.append(f"{on}: medians of {starts} starts of each kind, {document['date'][:10]}.")
    return "\n".join([*lines, "", *texts])


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


def gpu_demo() -> str:
    """What scripts/demo printed on each GPU."""
    texts = [f"```\n{path.read_text().strip()}\n```" for path in sorted(BENCHMARKS.glob("*/demo.txt"))]
    return "\n\n".join(texts) or none_yet("./scripts/demo > benchmarks/CHIP/demo.txt")


def runs() -> str:
    """What can be opened, in a sentence."""
    names, last = [f"`{name}`" for name in ARCHITECTURES], list(FORMATS)[-1]
    text = (
        f"GGUF files, whole or in shards, of the architectures {', '.join(names[:-1])} and {names[-1]}; weights in "
        f"{', '.join(list(FORMATS)[:-1])} and {last}, mixed freely ([docs/models.md](docs/models.md))."
    )
    return "\n".join(textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False))


def architectures() -> str:
    """A row for each declaration in model/architectures."""
    lines = ["| `general.architecture` | models | traits beside RMS norms, RoPE and a gated network |", "|---|---|---|"]
    for name, architecture in ARCHITECTURES.items():
        path = ROOT / "model" / "architectures" / f"{name.replace('-', '_')}.py"
        models = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].rstrip(".")
        lines.append(f"| `{name}` | {models} | {', '.join(_traits(architecture))} |")
    return "\n".join(lines)


def _traits(a: Architecture) -> Iterator[str]:
    named = {
        "norms of queries and keys": a.qk_norm,
        "biases of Q, K and V": a.qkv_bias and not a.out_bias,
        "biases of Q, K, V and attention's output": a.qkv_bias and a.out_bias,
        "sinks of attention": a.sinks,
        "Q, K, V and gate, up in one tensor each": a.fused,
        "GELU": a.gate_function == "gelu",
        "clamped SwiGLU": a.gate_function == "swiglu_oai",
        "YaRN between pairs": not a.whole_yarn,
        "norms of what a layer adds": a.post_norm,
        "scaled embedding": a.scaled_embedding,
        "soft caps": any(a.softcaps),
        "a window in every layer, where the file has one": a.window_period == 0,
        f"a window in all but every {ORDINALS.get(a.window_period or 0)} layer": bool(a.window_period),
        "a RoPE base of its own there": a.local_rope_base is not None,
        f"gated delta nets in all but every {ORDINALS.get(a.delta_period or 0)} layer": bool(a.delta_period),
        "a gate of attention's output": a.output_gate,
        "a mixture of experts in every layer": a.routing is not None and not a.routing.beside,
        "an expert that every token uses, with a gate": a.routing is not None and a.routing.shared,
        "in some models a mixture of experts beside the network of every layer": a.routing is not None
        and a.routing.beside,
        "norms of values": a.v_norm,
        "keys that are values": a.keys_as_values,
        "layers that share an earlier one's keys and values": a.shared_kv,
        "an input for each layer": a.layer_inputs,
        "a factor of what a layer gives": a.out_scale,
    }
    found = [text for text, present in named.items() if present]
    yield from found or ["none"]


def weight_formats() -> str:
    """A row for each declaration in kernel_templates/formats."""
    lines = ["| type | bits a weight | weights a block | weight |", "|---|---|---|---|"]
    for fmt in FORMATS.values():
        bits = 8 * fmt.block_bytes / fmt.block
        text = importlib.import_module(f"kernel_templates.formats.{fmt.name.lower()}").__doc__ or ""
        formula = re.search(r"^weight = (.*?)(?:\n\n|\Z)", text, re.M | re.S)
        shown = " ".join(formula[1].split()) if formula else "as it is"
        lines.append(f"| {fmt.name} | {bits:g} | {fmt.block if fmt.block > 1 else '–'} | {shown} |")
    return "\n".join(lines)


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


def split_experts() -> str:
    """A mixture larger than the GPU memory it may take."""
    lines = ["| | limit of GPU memory | tok/s | runs | prompt, tok/s | of tokens |", "|---" * 6 + "|"]
    texts = []
    for chip, documents in results("experts").items():
        for document in documents:
            found, build = document["result"], document["versions"].get("commit", "unknown")
            for side, decoded in found["decode_tok_s"].items():
                limit, settings = found["limits"][side], document["sides"][side]["settings"]
                low, high = found["decode_tok_s_range"][side]
                cells = [
                    "–" if limit is None else f"{limit / 1e9:g} GB",
                    f"{decoded:.0f} ({low:.0f}–{high:.0f})", str(settings["runs"]),
                    f"{found['prompt_tok_s'][side]:,.0f}", str(settings["prompt"]),
                ]  # fmt: skip
                lines.append(f"| {side} | {' | '.join(cells)} |")
            if (copied := found["copied_for_every_token_tok_s"]) is not None:
                limit = found["limits"]["split"] / 1e9
                what = "all experts of layers at the host copied to the GPU for every token (reckoned)"
                lines.append(f"| {what} | {limit:g} GB | < {copied:.1f} | – | – | – |")
            host = document["host"]
            where = f"{chip}, {host['cores']} cores of {host['chip']}"
            texts.append(
                f"{document['name']} on {where}, {document['date'][:10]}, commit {build}; medians and ranges "
                f"(`{document['command']}`)."
            )
    return "\n".join([*lines, "", *texts]) if texts else none_yet("./scripts/bench_experts")


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"headline": headline, "wide": gpu_wide, "runs": runs},
    "docs/models.md": {
        "architectures": architectures,
        "formats": weight_formats,
        "distances": distances,
        "experts": split_experts,
    },
    "docs/architecture.md": {"tree": architecture},
    "benchmarks/README.md": {
        "demo": lambda: f"```\n{(BENCHMARKS / 'demo.txt').read_text().strip()}\n```",
        "peer": lambda: "\n\n".join(peer(document) for document in cpu("cpu")),
        "accuracy": lambda: accuracy({"models": {k: v for d in cpu("accuracy_cpu") for k, v in d["models"].items()}}),
        "gpu": gpu,
        "gpu-wide": gpu_wide,
        "gpu-matmul": gpu_matmul,
        "gpu-memory": gpu_memory,
        "gpu-speculation": gpu_speculation,
        "starts": starts,
        "gpu-token": gpu_token,
        "gpu-accuracy": gpu_accuracy,
        "gpu-demo": gpu_demo,
    },
}


def main() -> None:
    for name, parts in DOCUMENTS.items():
        path = ROOT / name
        path.write_text(filled(path.read_text(), parts))


if __name__ == "__main__":
    main()
