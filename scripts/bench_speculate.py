"""Speculation by prompt lookup against plain decoding: ten prompts that quote and ten that do not, in one run; and what
a pass over a few tokens costs beside a step.

A round decodes every prompt both ways, one right after the other, every second round the other way first. The ratio of
a prompt is the median of its rounds' own ratios, which a machine that slows down for a while leaves alone.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import click
from peer import facts, files
from rich.console import Console
from rich.table import Table
from speculation_prompts import OWN, QUOTING

import autotune
from autotune.commands import options
from model.engine import Model
from model.sampling import Sampler
from model.speculation import MODES, NGRAM, OFF
from model.speculation_policy import SIZES

ROOT = Path(__file__).resolve().parent.parent
SETS = {"quoting": (QUOTING, Sampler()), "own": (OWN, Sampler(0.8, 0, 0.95, seed=1))}
MUST = {"quoting": 1.6, "own": 0.97}
STEPS = 16  # in a row, whose time between the first and the last is measured: the device is never without work then
IN_A_ROW = 4  # passes, as proposals that are kept follow each other
PASSES = (2, 4, 8, 16)  # tokens of the passes whose cost is measured
BEFORE = 128  # tokens of the text that they go on with
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def decoded(engine: Model, prompt: list[int], tokens: int, sampler: Sampler, way: str) -> dict[str, Any]:
    """Tokens a second after the first token, the tokens, and what became of proposals."""
    text = list(engine.generate_tokens(prompt, tokens, sampler, ignore_end=True, speculate=way))
    return {"tok_s": (len(text) - 1) / engine.timing.decode_s, "text": text, "done": engine.timing.speculated}


def compare(engine: Model, prompt: list[int], tokens: int, sampler: Sampler, number: int) -> dict[str, dict[str, Any]]:
    """One round of one prompt, by way; the prompt is in the cache before either begins."""
    engine.reset()
    next(engine.generate_tokens(prompt, 1, sampler))
    return {way: decoded(engine, prompt, tokens, sampler, way) for way in MODES[:: 1 if number % 2 else -1]}


def wait_for_passes(engine: Model, longest: int) -> None:
    """Until every pass that a text of up to so many tokens may have is compiled and captured, and those of PASSES."""
    of_texts = [(size + 1, first, how) for size in SIZES for first in range(0, longest, 64) for _, how in SETS.values()]
    passes = [*of_texts, *((tokens, BEFORE, Sampler()) for tokens in PASSES)]
    while False in {engine.runner.make_ready(*one) for one in passes}:  # all are begun with
        time.sleep(0.1)


def cost_of_passes(engine: Model, rounds: int) -> dict[str, Any]:
    """Microseconds of a step and of passes over tokens of one text, as a caller waits for them, in turn; both in steps
    as well. first_step_us: of a step right after a pass, when nothing is on its way."""
    runner, text = engine.runner, [index % 256 for index in range(256)]
    engine.reset()
    runner.feed(text[:BEFORE], 0)
    steps: list[float] = []
    firsts: list[float] = []
    passes: dict[int, list[float]] = {tokens: [] for tokens in PASSES}
    for number in range(-1, rounds * 10):  # the first only warms up
        for tokens, found in passes.items():
            times = [time.perf_counter()]
            for _ in range(IN_A_ROW):
                runner.verify(text[BEFORE : BEFORE + tokens], BEFORE, Sampler())
                times.append(time.perf_counter())
            runner.feed(text[BEFORE - 1 : BEFORE], BEFORE - 1)
            made = [time.perf_counter() for _ in runner.stream(BEFORE, STEPS, Sampler())]
            if number >= 0:
                found += [after - before for before, after in pairwise(times)]
                firsts.append(made[0] - times[-1])
                steps.append((made[-1] - made[0]) / (STEPS - 1))
    step, of = median(steps), {str(tokens): median(found) for tokens, found in passes.items()}
    return {
        "step_us": round(1e6 * step, 1),
        "first_step_us": round(1e6 * median(firsts), 1),
        "pass_us_by_tokens": {tokens: round(1e6 * seconds, 1) for tokens, seconds in of.items()},
        "pass_in_steps_by_tokens": {tokens: round(seconds / step, 2) for tokens, seconds in of.items()},
    }


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """One prompt's rates, their ratio and its proposals, the latter of the last round."""
    ratios = [made[NGRAM]["tok_s"] / made[OFF]["tok_s"] for made in rounds]
    done, texts = rounds[-1][NGRAM]["done"], rounds[-1]
    return {
        "plain_tok_s": round(median(made[OFF]["tok_s"] for made in rounds), 1),
        "speculated_tok_s": round(median(made[NGRAM]["tok_s"] for made in rounds), 1),
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "proposed": done.proposed, "kept": done.kept, "passes": done.passes, "off": done.off,
        "same_tokens": _agreeing(texts[OFF]["text"], texts[NGRAM]["text"]),
    }  # fmt: skip


def _agreeing(a: list[int], b: list[int]) -> int:
    """Tokens until the texts differ: passes and steps round differently, and then a tie goes the other way."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other), len(a))


def table_of(results: dict[str, Any]) -> Table:
    table = Table(title="decoding with proposals from the text so far, against without")
    for heading in ("prompt", "plain tok/s", "speculated", "ratio", "proposed", "kept", "passes", "off"):
        table.add_column(heading, justify="left" if heading == "prompt" else "right")
    for name, of_set in results.items():
        for prompt, r in of_set["prompts"].items():
            counts = [str(r[key]) for key in ("proposed", "kept", "passes")]
            rates = [f"{r[key]:,.1f}" for key in ("plain_tok_s", "speculated_tok_s")]
            table.add_row(prompt, *rates, f"{r['ratio']:.2f}×", *counts, "off" if r["off"] else "")
        table.add_row(f"[bold]{name}", "", "", f"[bold]{of_set['ratio']:.2f}×", f"least {of_set['least']:.2f}×")
        table.add_section()
    return table


@click.command()
@options.device_option
@click.option("--model", default="smollm2", show_default=True, help=f"{', '.join(files.MODELS)} or a GGUF file.")
@click.option("--tokens", type=click.IntRange(16), default=192, show_default=True, help="Decoded after each prompt.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--db", type=click.Path(path_type=Path), help="Tuning database (default: the user's own).")
@click.option("--passes-only", is_flag=True, help="Measure what passes cost, and decode no prompts: for any weights.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Default: speculate.json or passes.json in benchmarks/[CHIP/]."
)
def main(
    device: str, model: str, tokens: int, rounds: int, db: Path | None, passes_only: bool, out: Path | None
) -> None:
    """Measure `--speculate ngram` on prompts that quote and on prompts that do not.

    Example: scripts/bench_speculate --device cuda:0
    """
    name, path = files.one_model(model)
    about = facts.here()
    if device != options.CPU:
        about["device"] = {"chip": options.detect(device).chip}
    engine = autotune.load(path, device, db=db)
    engine.runner.warm_up()
    sets = {} if passes_only else SETS
    prompts = {
        of: {name: engine.tokenizer.encode(text) for name, text in texts.items()} for of, (texts, _) in sets.items()
    }
    longest = max((len(ids) for texts in prompts.values() for ids in texts.values()), default=0)
    wait_for_passes(engine, tokens + longest if prompts else 0)
    made: dict[str, dict[str, list[Any]]] = {of: {name: [] for name in texts} for of, texts in prompts.items()}
    for number in range(-1, rounds):  # the first only warms up
        for of, texts in prompts.items():
            for prompt, ids in texts.items():
                found = compare(engine, ids, tokens, SETS[of][1], number)
                if number >= 0:
                    made[of][prompt].append(found)
        if prompts:
            screen.print(f"round {number + 1} of {rounds}")
    cost = cost_of_passes(engine, rounds)
    engine.close()
    results: dict[str, Any] = {}
    for of, by_prompt in made.items():
        rows = {prompt: summary(found) for prompt, found in by_prompt.items()}
        ratios = [row["ratio"] for row in rows.values()]
        results[of] = {
            "ratio": round(geometric_mean(ratios), 3), "least": min(ratios), "must": MUST[of], "prompts": rows,
        }  # fmt: skip
    document = {
        **about, "model": name,
        "settings": {"tokens": tokens, "rounds": rounds, "own": "temperature 0.8, top-p 0.95, seed 1"},
        **cost, "results": results,
    }  # fmt: skip
    folder = (
        ROOT / "benchmarks"
        if device == options.CPU
        else ROOT / "benchmarks" / facts.chip_folder(about["device"]["chip"])
    )
    facts.write(out or folder / ("passes.json" if passes_only else "speculate.json"), document)
    if results:
        screen.print(table_of(results))
    in_steps = ", ".join(f"{tokens}: {steps:.2f}" for tokens, steps in cost["pass_in_steps_by_tokens"].items())
    screen.print(f"a step takes {cost['step_us']} µs, right after a pass {cost['first_step_us']}")
    screen.print(f"a pass, by its tokens, in steps: {in_steps}")


if __name__ == "__main__":
    main()
