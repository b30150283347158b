"""What models do on a GPU: each is made, tuned, measured and deleted; what was found goes to a file of its own.

Decoding after several depths, prompts of 16 to 2,048 tokens, and 8 and 32 texts decoded together.

Tuning starts from an empty database unless one is named; beneath it lie the winners that come with autotune, if there
are any for this chip.
With `--peer`, llama.cpp's llama-bench, and the llama-batched-bench beside it, measure the same file right after.
Without it, its numbers are quoted from where SOURCE says, and only beside results from the same chip.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from make_model import QUANTS, SHAPES
from peer import facts, files, llama_bench
from rich.console import Console
from rich.table import Table

from autotune.commands.options import CACHES, WidthNames
from autotune.runner.python_process import environment, python_command

ROOT = Path(__file__).resolve().parent.parent
REAL = "smollm2-135m-instruct"
"""The one name that is no shape and format: the real file of peer/files.py."""


@dataclass(frozen=True)
class Mark:
    """What to be held against, tokens per second: another engine's decode and prefill of 2048 tokens, from its slowest
    to its fastest settings, and what this project must and wants to reach in decode."""

    engine: str = "llama.cpp"
    decode: tuple[int, ...] = ()
    prefill: tuple[int, ...] = ()
    must: int | None = None
    aim: int | None = None


CHIP = "h100"
SOURCE = "measured for this project in October 2026 on an H100 80GB HBM3: llama.cpp built for sm_90a, flash attention"
MARKS = {
    "qwen3-0.6b-Q4_0": Mark(decode=(802, 930), prefill=(29000, 37000), must=3200, aim=4500),
    "qwen3-0.6b-Q8_0": Mark(decode=(709,), prefill=(32000,), must=2400, aim=3200),
    "qwen3-0.6b-BF16": Mark("a persistent kernel written for this model", decode=(951,), must=1500, aim=2000),
    "qwen3-1.7b-Q4_0": Mark(decode=(635,), prefill=(30000,), must=1600, aim=2000),
    "qwen3-4b-Q4_0": Mark(decode=(368,), prefill=(16000,)),
    "qwen3-8b-Q4_0": Mark(decode=(299,), prefill=(10800,), must=570, aim=640),
    "qwen3-8b-Q8_0": Mark(decode=(218,), prefill=(10200,), must=300, aim=325),
    REAL: Mark("llama.cpp, in Q4_0", decode=(948,), prefill=(46000,), must=3500, aim=5500),
}
WIDTHS = "decode,prompt,batch"
DEFAULT = tuple(name for name, mark in MARKS.items() if mark.must)
screen = Console(stderr=True, width=None if sys.stderr.isatty() else 140)  # a log has no width; a table needs one


class Failed(Exception):
    """One model could not be measured; the message is one line."""


@dataclass(frozen=True)
class Settings:
    device: str
    budget: float
    runs: int
    db: Path
    folder: Path
    peer: Path | None
    widths: str = WIDTHS
    depths: tuple[int, ...] = ()
    """Cached tokens to decode after; empty: what `autotune bench` measures by itself."""
    cache: str = CACHES[0]
    """Format of the KV cache."""


def parse(name: str) -> tuple[str, str] | None:
    """Shape and format of a model to be made; None for the real one. Raises click.BadParameter."""
    if name == REAL:
        return None
    shape, _, quant = name.rpartition("-")
    if shape not in SHAPES or quant not in QUANTS:
        raise click.BadParameter(f"{name!r} is no model; give {REAL}, or a shape and a format as in qwen3-0.6b-Q4_0")
    return shape, quant


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Everything about one model. Raises Failed."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "make"):
        path = model_file(name, settings.folder)
    try:
        with _timed(seconds, "tune"):
            tuned = _autotune("tune", path, settings, *_tune_options(settings))
        with _timed(seconds, "bench"):
            benched = _autotune("bench", path, settings, "--runs", str(settings.runs), *_bench_options(settings))
        with _timed(seconds, "peer"):
            peer = _peer(settings, path, benched) if settings.peer else None
        size = path.stat().st_size
    except llama_bench.BenchFailed as error:
        raise Failed(str(error)) from None
    finally:
        if path.parent == settings.folder:  # what is kept elsewhere stays
            path.unlink(missing_ok=True)
    for private in ("model", "database"):  # where somebody keeps a file is nobody's business
        tuned.pop(private, None)
    mark = MARKS.get(name) if facts.chip_folder(benched["device"]["chip"]) == CHIP and peer is None else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(
            [
                "scripts/bench_gpu",
                name,
                "--budget",
                f"{settings.budget:g}",
                f"--runs={settings.runs}",
                *([] if settings.widths == WIDTHS else [f"--widths={settings.widths}"]),
                *(f"--depth={depth}" for depth in settings.depths),
                *_cache_options(settings),
            ]
        ),
        "name": name if settings.cache == CACHES[0] else f"{name}-cache-{settings.cache}",
        "file_bytes": size,
        "seconds": {step: round(spent, 1) for step, spent in seconds.items()},
        "versions": benched["versions"],
        "device": benched["device"],
        "marks": None if mark is None else {**asdict(mark), "source": SOURCE},
        "peer": peer,
        "summary": summary(benched),
        "bench": benched,
        "tune": tuned,
    }


def _tune_options(settings: Settings) -> list[str]:
    """Attention up to the deepest of the depths that were named, and the tokens decoded behind it."""
    context = ["--context", str(max(settings.depths) + llama_bench.TOKENS)] if settings.depths else []
    return ["--budget", str(settings.budget), "--widths", settings.widths, *context, *_cache_options(settings)]


def _bench_options(settings: Settings) -> list[str]:
    """Widths as `tune`'s; without several texts on a build that cannot decode them, which the default leaves out."""
    widths = [] if settings.widths == WIDTHS else ["--widths", settings.widths]
    return [*widths, *(f"--depth={depth}" for depth in settings.depths), *_cache_options(settings)]


def _cache_options(settings: Settings) -> list[str]:
    return [] if settings.cache == CACHES[0] else [f"--cache={settings.cache}"]


def _peer(settings: Settings, path: Path, benched: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp at what our side was measured at. Raises BenchFailed."""
    assert settings.peer is not None
    ours = benched["tuned"]
    prompts = sorted({*map(int, ours.get("prompts", {})), llama_bench.PROMPT})
    texts = sorted(map(int, ours.get("batches", {})))
    return llama_bench.measure(settings.peer, path, [int(d) for d in ours["decode"]], settings.runs, prompts, texts)


def summary(bench: Mapping[str, Any]) -> dict[str, Any]:
    """The tuned side's numbers that tables show: from an empty context, from the deepest one, prompts in milliseconds,
    and texts together in tokens per second of all.

    kept: the deep rate as a share of what it were if the cached tokens cost no more than reading them at the measured
    bandwidth.
    """
    rows, read = bench["tuned"]["decode"], bench["device"]["read_gb_s"] * 1e9
    depths = sorted(rows, key=int)
    first, last = rows[depths[0]], rows[depths[-1]]
    possible = 1 / (1 / first["tok_s"] + (last["bytes_per_token"] - first["bytes_per_token"]) / read)
    return {
        "decode_tok_s": first["tok_s"],
        "untuned_tok_s": bench["untuned"]["decode"][depths[0]]["tok_s"],
        "gb_s": first["gb_s"],
        "share": first["share"],
        "kernels_per_token": first["kernels_per_token"],
        "prefill_tok_s": bench["tuned"]["prefill_tok_s"],
        "prompt_ms": {n: 1e3 * int(n) / row["tok_s"] for n, row in bench["tuned"].get("prompts", {}).items()},
        "batch_tok_s": {n: row["tok_s"] for n, row in bench["tuned"].get("batches", {}).items()},
        "depth": int(depths[-1]),
        "deep_tok_s": last["tok_s"],
        "kept": last["tok_s"] / possible,
    }


def table_of(documents: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="tokens per second, tuned, against what was asked")
    columns = (
        "tok/s", "must", "aim", "other engine", "ratio", "TB/s", "% of read bandwidth", "kernels", "deep", "kept",
        "prefill",
    )  # fmt: skip
    for heading in ("model", *columns, "other engine"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, document in documents.items():
        s, mark = document["summary"], document["marks"] or _measured(document["peer"])
        must, rate = mark["must"], s["decode_tok_s"]
        color = "" if not must else "[red]" if rate < must else "[green]"
        table.add_row(
            name, f"{color}{rate:,.0f}", _goal(must), _goal(mark["aim"]), _range(mark["decode"]),
            f"{rate / max(mark['decode']):.2f}×" if mark["decode"] else "–",
            f"{s['gb_s'] / 1e3:.2f}", f"{s['share']:.0%}", str(s["kernels_per_token"]),
            f"{s['deep_tok_s']:,.0f}", f"{s['kept']:.0%}", f"{s['prefill_tok_s']:,.0f}", _range(mark["prefill"]),
        )  # fmt: skip
    return table


def wide_table_of(documents: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Many tokens at once, and what the other engine did; None where nothing was measured."""
    table = Table(title="many tokens at once, tuned: ours, and llama.cpp's where it ran beside")
    prompts = sorted({n for d in documents.values() for n in d["summary"]["prompt_ms"]}, key=int)
    texts = sorted({n for d in documents.values() for n in d["summary"]["batch_tok_s"]}, key=int)
    if not prompts and not texts:
        return None
    table.add_column("model")
    for heading in (*(f"{n} tokens, ms" for n in prompts), *(f"{n} texts, tok/s" for n in texts)):
        table.add_column(heading, justify="right")
    for name, document in documents.items():
        s, theirs = document["summary"], (document["peer"] or {}).get("best_tok_s", {})
        cells = [_beside(s["prompt_ms"].get(n), 1e3 * int(n) / r if (r := theirs.get(f"prompt_{n}")) else None, 2)
                 for n in prompts]  # fmt: skip
        cells += [_beside(s["batch_tok_s"].get(n), theirs.get(f"batch_{n}"), 0) for n in texts]
        table.add_row(name, *cells)
    return table


def _beside(ours: float | None, theirs: float | None, digits: int) -> str:
    shown = "–" if ours is None else f"{ours:,.{digits}f}"
    return shown if theirs is None else f"{shown} ({theirs:,.{digits}f})"


def _measured(peer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What llama-bench measured, as a Mark."""
    if peer is None:
        return asdict(Mark())
    rates = peer["best_tok_s"]
    return asdict(Mark(decode=(round(rates["decode_0"]),), prefill=(round(rates["prefill"]),)))


def _goal(rate: int | None) -> str:
    return "–" if rate is None else f"{rate:,}"


def _range(rates: tuple[int, ...]) -> str:
    return "–".join(f"{rate:,}" for rate in rates) or "–"


def model_file(name: str, folder: Path) -> Path:
    """The model's file, made in `folder`; one that .models/ has is taken from there. Raises Failed."""
    wanted = parse(name)
    if wanted is None:
        try:
            return files.real_model()
        except click.ClickException as error:
            raise Failed(error.message) from None
    if (kept := files.FOLDER / f"{name}.gguf").exists():
        return kept
    path = folder / f"{name}.gguf"
    command = [sys.executable, "-P", str(ROOT / "scripts" / "make_model.py"), *wanted, str(path)]
    if status := subprocess.run(command, stdout=sys.stderr, env=environment()).returncode:
        path.unlink(missing_ok=True)
        raise Failed(f"the file could not be made (exit status {status}); the message is above")
    return path


def _autotune(command: str, path: Path, settings: Settings, *options: str) -> dict[str, Any]:
    """The JSON document of one command of the command line."""
    where = ("--device", settings.device, "--db", str(settings.db), "--json")
    words = python_command("autotune", command, str(path), *options, *where)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
    if done.returncode:
        raise Failed(f"autotune {command} failed (exit status {done.returncode}); the message is above")
    return json.loads(done.stdout)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[step] = time.monotonic() - start


def _known_widths(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return ",".join(WidthNames().convert(value, param, ctx))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--budget", type=click.FloatRange(min=1), default=150, show_default=True, help="Seconds to tune a model.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions; medians count.")
@click.option(
    "--peer",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="llama.cpp's llama-bench, to run beside; llama-batched-bench is looked for in its folder.",
)
@click.option("--widths", default=WIDTHS, show_default=True, callback=_known_widths, help="What is tuned and measured.")
@click.option(
    "--depth", "depths", multiple=True, type=click.IntRange(min=0),
    help="Cached tokens to decode after; may be given again.  [default: 0 and 4096]",
)  # fmt: skip
@click.option(
    "--cache", type=click.Choice(CACHES), default=CACHES[0], show_default=True,
    help="Format of the KV cache; results of another than the default go to a file of their own, MODEL-cache-q8_0.",
)  # fmt: skip
@click.option("--db", type=click.Path(path_type=Path), help="Tuning database.  [default: a fresh one]")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where model files are made.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the results.  [default: benchmarks/CHIP]"
)
def main(
    models: tuple[str, ...],
    device: str,
    budget: float,
    runs: int,
    peer: Path | None,
    widths: str,
    depths: tuple[int, ...],
    cache: str,
    db: Path | None,
    folder: Path | None,
    out: Path | None,
) -> None:
    """Tune and measure each MODEL on a GPU: a shape and a format of scripts/make_model.py, or smollm2-135m-instruct.

    Without a MODEL: those that have a mark to reach. A model that fails does not stop the others.

    Example: scripts/bench_gpu qwen3-0.6b-Q4_0 smollm2-135m-instruct --budget 100
    """
    chosen = models or DEFAULT
    for name in chosen:
        parse(name)
    documents: dict[str, dict[str, Any]] = {}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="autotune-", dir=folder) as made:
        settings = Settings(
            device, budget, runs, db or Path(made) / "tuning.db", Path(made), peer, widths, depths, cache
        )
        for number, name in enumerate(chosen, 1):
            screen.print(f"[bold]{name}[/] ({number} of {len(chosen)})")
            try:
                document = measure(name, settings)
            except Failed as error:
                screen.print(f"[red]{name}: {error}[/]")
                continue
            where = out or ROOT / "benchmarks" / facts.chip_folder(document["device"]["chip"])
            target = where / f"{document['name']}.json"
            facts.write(target, document)
            screen.print(f"{name}: {document['summary']['decode_tok_s']:,.0f} tok/s, {target.name} written")
            documents[name] = document
    if documents:
        screen.print(table_of(documents))
        if (wide := wide_table_of(documents)) is not None:
            screen.print(wide)
    if missing := [name for name in chosen if name not in documents]:
        raise click.ClickException(f"not measured: {', '.join(missing)}; the messages are above")


if __name__ == "__main__":
    main()
