"""Tables of what is measured apart from rates of decoding: memory, passes and speculation, an earlier build, starts,
split experts."""

import json
import shlex

from readme_tables import measured
from readme_tables.measured import none_yet, results


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


def builds() -> str:
    """This build beside an earlier one: what was decoded and read in turn."""
    lines = ["| | | before, tok/s | now | ratio | of the rounds |", "|---" * 6 + "|"]
    texts = []
    for chip, documents in results("builds").items():
        for document in documents:
            for name, found in document["models"].items():
                for goal in (goal for goal in found if goal != "same_text"):
                    ratio = found[goal]["ratio"]
                    cells = [f"{found[goal][side]['median']:,.0f}" for side in ("other", "here")]
                    cells += [f"{ratio['median']:.2f}×", f"{ratio['min']:.2f} to {ratio['max']:.2f}"]
                    lines.append(f"| {name} | {goal} | {' | '.join(cells)} |")
            asked = [word for word in shlex.split(document["command"])[2:] if not word.startswith("-")]
            missing = [name for name in asked if name not in document["models"]]
            settings, sides = document["settings"], f"{document['other'][:7]} and {document['here'][:7]}"
            texts.append(
                f"{chip}, {document['date'][:10]}: commits {sides}, each with the winners that come with it, in turn; "
                f"medians of {settings['rounds']} rounds of {settings['tokens']} tokens and a prompt of "
                f"{settings['prompt']:,}." + (f" Not reached: {', '.join(missing)}." if missing else "")
            )
    return "\n".join([*lines, "", *texts]) if texts else none_yet("./scripts/bench_builds OTHER MODEL")


def starts() -> str:
    """From the start of the process to its first token, on each device that was measured; alone, not beside others."""
    lines = ["| | on | first token, s: cold | warm | CPU seconds, warm | peak MB |", "|---" * 6 + "|"]
    texts = []
    for path in sorted([*measured.BENCHMARKS.glob("start.json"), *measured.BENCHMARKS.glob("*/start.json")]):
        document = json.loads(path.read_text())
        on = (
            document["device"]["chip"]
            if path.parent == measured.BENCHMARKS
            else document.get("gpu", path.parent.name.upper())
        )
        for name, sides in document["models"].items():
            cold, warm = (sides["here"]["0"][kind] for kind in ("cold", "warm"))
            cells = [f"{kind['first_token_s']['median']:.2f}" for kind in (cold, warm)]
            cells += [f"{warm['cpu_s']['median']:.1f}", f"{warm['peak_mb']['median']:,.0f}"]
            lines.append(f"| {name} | {on} | {' | '.join(cells)} |")
        starts = len(warm["wall_s"]["samples"])
        texts.append(f"{on}: medians of {starts} starts of each kind, {document['date'][:10]}.")
    return "\n".join([*lines, "", *texts])


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
