"""Loads a model for `generate` and `chat`; says where its kernels come from and how fast it was."""

import gc
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.commands import options, output

if TYPE_CHECKING:
    from model.engine import Model, Timing
    from model.sampling import Sampler


def load_model(
    path: Path, device: str, db_path: Path | None, context: int | None, untuned: bool, nvtx: bool = False,
    prompt: str = "", gpu_memory: int | None = None, speculate: str = "off", cache: str = options.CACHES[0],
) -> "Model":  # fmt: skip
    """The model with the winners that the database has for it; a progress bar on a terminal while it loads. prompt,
    gpu_memory and cache: as of `model.engine.load`; speculate: what will be asked of it, refused before weights
    are read."""
    options.check_cache(cache, device)
    # Hundreds of modules and a vocabulary are made, and nothing of it is garbage: looking for some takes 0.2 s.
    gc.disable()
    try:
        if speculate != "off":
            _check_speculation(path, speculate)
        return _load(path, device, db_path, context, untuned, nvtx, prompt, gpu_memory, cache)
    finally:
        gc.freeze()
        gc.enable()


def _check_speculation(path: Path, speculate: str) -> None:
    from model import speculation
    from model.config import ModelConfig
    from model.gguf_file import open_gguf

    speculation.check(speculate, ModelConfig.from_gguf(open_gguf(path)))


def _load(
    path: Path, device: str, db_path: Path | None, context: int | None, untuned: bool, nvtx: bool, prompt: str,
    gpu_memory: int | None, cache: str,
) -> "Model":  # fmt: skip
    options.begin(device)
    from rich.progress import BarColumn, Progress, TextColumn

    from model.engine import load

    screen = output.console(stderr=True)
    columns = (TextColumn("loading {task.fields[name]}"), BarColumn(), TextColumn("{task.fields[state]}"))
    bar = Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal,
    )  # fmt: skip
    # A database that cannot be read is an error even for a model that would run without it: its owner wants to know.
    with options.open_database(db_path) as db, bar:
        task = bar.add_task("load", total=None, name=path.name, state="")
        model = load(
            path, device, db=db, context=context, tuned=not untuned, nvtx=nvtx, prompt=prompt,
            gpu_memory=gpu_memory, cache=cache,
            progress=lambda done, of: bar.update(task, completed=done, total=of, state=f"{done} of {of}"),
        )  # fmt: skip
    if model.tokenizer.note:
        output.note(model.tokenizer.note)
    if model.config.left_alone:
        output.note(f"the file's {' and '.join(model.config.left_alone)} are left alone; this engine reads text")
    if model.runner.experts is not None:
        output.note(experts_line(model.runner.experts.document()))
    if context is not None and model.context < context:
        output.note(
            f"the model was trained for a context of {model.context} tokens, which is used instead of {context}"
        )
    return model


def sampler_for(model: "Model", given: Mapping[str, Any], defaults: Mapping[str, Any], seed: int | None) -> "Sampler":
    """The settings that the command line gives, where they are not None; else the model file's own, which a note tells;
    else the command's defaults. Raises ModelError for a value out of range."""
    from model.sampling import FileSampling, Sampler

    given = {name: value for name, value in given.items() if value is not None}
    file = FileSampling.from_metadata(model.file.metadata)
    taken = {name: value for name, value in file.settings.items() if name not in given}
    if taken:
        words = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in taken.items())
        output.note(f"sampling as the model file asks: {words}; options override it")
    if file.lacking:
        output.note(f"the model file also asks for {', '.join(file.lacking)}, which is not supported and left out")
    return Sampler(**{**defaults, **taken, **given}, seed=seed)


def check_sampling(given: Mapping[str, Any], seed: int | None) -> None:
    """Refuse what the command line gives before a model is opened. Raises ModelError."""
    from model.sampling import Sampler

    Sampler(**{name: value for name, value in given.items() if value is not None}, seed=seed)


def note_template(model: "Model", variables: Mapping[str, Any]) -> None:
    """Say what is not as it seems: a template that is not the file's own, a variable that it does not mention."""
    if model.chat.note:
        output.note(model.chat.note)
    for name in variables:
        if name not in model.chat.source:
            output.note(f"the chat template does not mention {name}, so it changes nothing")


def kernels_line(model: "Model", path: Path, untuned: bool) -> str:
    """One line that counts the kernels by where they come from."""
    from tuning_db.records import Source

    words = {
        Source.EXACT: "tuned for this machine",
        Source.SAME_CHIP: "tuned on this chip with other software",
        Source.SHIPPED: "shipped with autotune",
        Source.NEAREST_SHAPE: "borrowed from the nearest shape tuned here",
        Source.NEAREST_CHIP: "borrowed from the nearest chip",
        Source.DEFAULT: "template defaults",
    }
    counts = Counter(choice.source for choice in model.choices.values())
    parts = [f"{counts[source]} {words[source]}" for source in Source if counts[source]]
    advice = ""
    if untuned:
        advice = " (--untuned)"
    elif counts.keys() - {Source.EXACT}:
        advice = f" (for more speed: autotune tune {path})"
    return f"kernels: {', '.join(parts)}{advice}"


def experts_line(placed: Mapping[str, Any]) -> str:
    """Where the experts are, and the measurements by which; placed: a document of `ExpertPlacement`."""
    gpu, host = placed["gpu"], placed["host"]
    there = f"of layers {gpu['layers']} on the GPU ({gpu['bytes'] / 1e9:.2f} GB), " if gpu["layers"] else ""
    line = (
        f"experts: {there}of layers {host['layers']} in host memory ({host['bytes'] / 1e9:.2f} GB); measured for a "
        f"token and layer: {gpu['token_us']:.0f} µs on the GPU, {host['token_us']:.0f} µs on the CPU with the way "
        "there and back"
    )
    if placed["copy_ms"] is not None:
        rows = placed["copied_from_rows"]
        when = "no pass" if rows is None else f"a pass of {rows} rows and more"
        line += f"; {when} has them copied to the GPU, in {placed['copy_ms']:.1f} ms a layer"
    return line


def kernels_document(model: "Model") -> list[dict[str, Any]]:
    """Each problem with its configuration and where that came from."""
    return [
        {
            "problem": problem.key,
            "source": choice.source.name.lower(),
            "detail": choice.detail,
            "config": dict(choice.config),
        }
        for problem, choice in model.choices.items()
    ]


def since_process_start() -> float | None:
    """Seconds; None where the system does not say when that was."""
    try:
        after_boot = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def rates(timing: "Timing") -> dict[str, float | None]:
    """Seconds and tokens per second. The first token comes with the prompt, so decoding made one less; what the cache
    held of the prompt was not read again."""
    steps, read = timing.tokens - 1, timing.prompt_tokens - timing.cached
    return {
        "prompt_s": timing.prompt_s,
        "decode_s": timing.decode_s,
        "prompt_tok_s": read / timing.prompt_s if timing.prompt_s else None,
        "decode_tok_s": steps / timing.decode_s if steps > 0 and timing.decode_s else None,
    }


def speed_line(timing: "Timing") -> str:
    speed = rates(timing)
    cached = f" ({timing.cached} of them in the cache)" if timing.cached else ""
    return (
        f"prompt: {timing.prompt_tokens} tokens{cached}, {output.number(speed['prompt_tok_s'])} tok/s · "
        f"text: {timing.tokens} tokens, {output.number(speed['decode_tok_s'])} tok/s{_speculation(timing)}"
    )


def _speculation(timing: "Timing") -> str:
    """What became of proposals, as a part of the line of speed; "" without speculation."""
    done = timing.speculated
    if done is None:
        return ""
    off = "; turned itself off, since single steps were faster" if done.off else ""
    return f" · speculation: {done.proposed} proposed, {done.kept} kept, {done.passes} passes{off}"


def speculation_document(timing: "Timing") -> dict[str, Any] | None:
    """What became of proposals; None without speculation."""
    done = timing.speculated
    return None if done is None else asdict(done)


def stop_reason(timing: "Timing", tokens: int, context: int) -> str | None:
    """Why a text of at most `tokens` tokens ended: "end_token", "length" or "context_full"; None if something else
    stopped it."""
    if timing.ended:
        return "end_token"
    if timing.tokens >= tokens:
        return "length"
    return "context_full" if timing.tokens and timing.prompt_tokens + timing.tokens >= context else None


def why_it_stopped(model: "Model", tokens: int) -> str | None:
    """What cut the text after at most `tokens` tokens, and what to do about it; None if the model ended its turn."""
    timing, context = model.timing, model.context
    match stop_reason(timing, tokens, context):
        case "length":
            return f"stopped after {timing.tokens} tokens; -n {2 * tokens} writes up to twice as many"
        case "context_full" if context >= model.config.context:
            return f"the context of {context} tokens is full, and the model was trained for no more"
        case "context_full":
            return f"the context of {context} tokens is full; --context holds more, up to {model.config.context}"
    return None
