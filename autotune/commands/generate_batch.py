"""`autotune generate --input`: answers a file of prompts, many at once, into a file that a later run goes on with."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autotune import UserError
from autotune.commands import loading, options, output, prompt_lines
from autotune.commands.answer_file import AnswerFile
from autotune.commands.conversation import encode_rendered
from autotune.commands.prompt_lines import PromptLine

if TYPE_CHECKING:
    from model.engine import Model, Piece, Prompt
    from model.errors import ModelError
    from model.sampling import Sampler

RENDERED_AT_ONCE = 32  # conversations: a process that renders takes 0.15 s to start
SHOWN_S, LOGGED_S = 0.1, 10.0  # between two states of the progress, on a terminal and in a log


@dataclass(frozen=True)
class BatchSettings:
    """What the command line says. given: fields of `Sampler` that are not None; defaults: the command's own."""

    model: Path
    source: str
    target: str
    batch: int
    as_chat: bool
    plain: bool
    template_args: Mapping[str, Any]
    tokens: int
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    seed: int | None
    context: int | None
    untuned: bool
    nvtx: bool
    device: str
    gpu_memory: int | None
    cache: str
    db_path: Path | None
    as_json: bool

    def digest(self, model: str, prompt: PromptLine) -> str:
        """Of a prompt with all that decides about its answer, but for the machine: two runs with the same one may share
        a file. model: the digest of the model's file."""
        own: dict[str, Any] = {"model": model, "chat": self.as_chat, "plain": self.plain, "seed": self.seed}
        own |= {} if self.cache == options.CACHES[0] else {"cache": self.cache}
        own |= {"template": dict(self.template_args), "tokens": self.tokens, "sampling": dict(self.given)}
        text = json.dumps([own, prompt.digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Totals:
    """What a run did so far. failed: "line N: why" of each prompt without an answer; tokens are those that this run
    generated, those of texts that are not finished included."""

    prompts: int
    already: int
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Tokens a second, the time for prompts included."""
        return self.tokens / self.seconds if self.seconds and self.tokens else None


def run(settings: BatchSettings) -> None:
    """Answer all prompts of a file that its output does not have yet. Raises UserError, at the end also when some
    prompts could not be answered; KeyboardInterrupt once the totals are told."""
    from model.gguf_file import open_gguf

    source, target = settings.source, settings.target
    if settings.as_json and target == "-":
        raise UserError("--json prints its document on stdout, where the answers go; name a file with --output")
    files = [Path(name) for name in (source, target) if name != "-"]
    if len(files) == 2 and all(file.exists() for file in files) and files[0].samefile(files[1]):
        raise UserError("--output names the file of the prompts; name another one")
    prompts = _read(settings)
    model = open_gguf(settings.model).digest()
    digests = [settings.digest(model, prompt) for prompt in prompts]
    wanted = {prompt.key: (prompt.index, digest) for prompt, digest in zip(prompts, digests, strict=True)}
    interrupted: KeyboardInterrupt | None = None
    engine: Model | None = None
    with AnswerFile(None if target == "-" else Path(target), wanted) as answers:
        left = [prompt for prompt in prompts if prompt.index not in answers.done]
        totals = Totals(len(prompts), len(prompts) - len(left))
        if left:
            engine = loading.load_model(
                settings.model, settings.device, settings.db_path, settings.context, settings.untuned, settings.nvtx,
                gpu_memory=settings.gpu_memory,
                cache=settings.cache,
            )  # fmt: skip
            try:
                _answer(engine, settings, left, digests, answers, totals)
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
    if settings.as_json:
        output.print_json(_document(settings, totals, engine, interrupted is not None))
    output.note(_summary(totals, interrupted is not None, target))
    if engine is not None:
        output.note(loading.kernels_line(engine, settings.model, settings.untuned))
        engine.close()
    if interrupted is not None:
        raise interrupted
    if totals.failed:
        more = "" if target == "-" else "; the same command tries them again"
        raise UserError(
            f"{len(totals.failed)} of {output.counted(totals.prompts, 'prompt')} could not be answered{more}. "
            f"{totals.failed[0]}"
        )


def _read(settings: BatchSettings) -> list[PromptLine]:
    if settings.source == "-":
        return prompt_lines.read(sys.stdin.buffer, settings.as_chat)
    with Path(settings.source).open("rb") as file:
        return prompt_lines.read(file, settings.as_chat)


def _answer(
    engine: "Model", settings: BatchSettings, left: Sequence[PromptLine], digests: Sequence[str], answers: AnswerFile,
    totals: Totals,
) -> None:  # fmt: skip
    if any(prompt.messages is not None for prompt in left):
        loading.note_template(engine, settings.template_args)
    sampler = loading.sampler_for(engine, settings.given, settings.defaults, settings.seed)
    asked = _asked(engine, settings, left, sampler)
    texts: dict[int, list[str]] = {}
    begun = time.perf_counter()
    with (
        _Progress(totals) as progress,
        closing(engine.generate_many(asked, settings.tokens, most=min(settings.batch, len(left)))) as events,
    ):
        for piece in events:
            pieces = texts.setdefault(piece.index, [])
            pieces.append(piece.text)
            totals.seconds = time.perf_counter() - begun
            totals.tokens += 1
            if piece.end is not None:
                # A piece may be of several tokens, or of none.
                totals.tokens += piece.end.tokens - len(pieces)
                prompt = left[piece.index]
                answers.write(prompt.index, digests[prompt.index], _line(prompt, texts.pop(piece.index), piece))
                _count(totals, prompt, piece)
            progress.show(len(texts))


def _asked(
    engine: "Model", settings: BatchSettings, left: Sequence[PromptLine], sampler: "Sampler"
) -> "Iterator[Prompt | ModelError]":
    """Each prompt with its settings, as the engine takes it; conversations are rendered some at a time."""
    from model.engine import Prompt
    from model.errors import ModelError

    for start in range(0, len(left), RENDERED_AT_ONCE):
        some = left[start : start + RENDERED_AT_ONCE]
        talks = [prompt.messages for prompt in some if prompt.messages is not None]
        rendered = iter(engine.chat.render_each(talks, variables=settings.template_args) if talks else [])
        for prompt in some:
            text: Any = prompt.prompt if prompt.messages is None else next(rendered)
            if isinstance(text, ModelError):
                yield text
                continue
            try:
                text = text if prompt.messages is None else encode_rendered(engine, text)
            except ModelError as error:
                yield error
                continue
            yield Prompt(text, prompt.tokens, replace(sampler, **prompt.sampling), parse_special=not settings.plain)


def _line(prompt: PromptLine, pieces: Sequence[str], piece: "Piece") -> dict[str, Any]:
    end = piece.end
    assert end is not None
    line: dict[str, Any] = {} if prompt.id is None else {"id": prompt.id}
    line |= {"text": "".join(pieces), "stop_reason": end.reason}
    if end.error is not None:
        line["error"] = end.error
    line["tokens"] = {"prompt": end.prompt_tokens, "text": end.tokens}
    line["seconds"] = {"prompt": round(end.prompt_s, 6), "decode": round(end.decode_s, 6)}
    return line if prompt.metadata is None else line | {"metadata": prompt.metadata}


def _count(totals: Totals, prompt: PromptLine, piece: "Piece") -> None:
    end = piece.end
    assert end is not None
    if end.error is None:
        totals.answered += 1
        totals.prompt_tokens += end.prompt_tokens
    else:
        totals.failed.append(f"{prompt.name[0].upper()}{prompt.name[1:]}: {end.error}")


def _summary(totals: Totals, interrupted: bool, target: str) -> str:
    parts = [f"answered {output.counted(totals.answered, 'prompt')}"]
    if totals.already:
        parts[0] += f", {totals.already} were answered before"
    if totals.failed:
        parts[0] += f", {len(totals.failed)} failed"
    if totals.tokens:
        parts.append(
            f"{totals.prompt_tokens:,} tokens read, {totals.tokens:,} written in {totals.seconds:.1f} s, "
            f"{output.number(totals.rate)} tok/s"
        )
    if interrupted:
        left = totals.prompts - totals.already - totals.answered - len(totals.failed)
        parts.append(f"interrupted with {left} left" + ("" if target == "-" else "; the same command goes on"))
    return " · ".join(parts)


def _document(settings: BatchSettings, totals: Totals, engine: "Model | None", interrupted: bool) -> dict[str, Any]:
    return {
        "model": str(settings.model),
        "device": settings.device,
        "input": settings.source,
        "output": settings.target,
        "batch": settings.batch,
        "interrupted": interrupted,
        "prompts": {
            "all": totals.prompts,
            "already": totals.already,
            "answered": totals.answered,
            "failed": totals.failed,
        },
        "tokens": {"prompt": totals.prompt_tokens, "text": totals.tokens},
        "timings": {
            "seconds": totals.seconds,
            "tok_s": totals.rate,
            "load_s": None if engine is None else engine.load_s,
        },
        "kernels": [] if engine is None else loading.kernels_document(engine),
    }


class _Progress:
    """On stderr: a bar on a terminal, a line now and then in a log."""

    def __init__(self, totals: Totals) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._totals, screen = totals, output.console(stderr=True)
        self._terminal = screen.is_terminal
        self._every = SHOWN_S if self._terminal else LOGGED_S
        self._last = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.completed} of {task.total} prompts"), BarColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"), console=screen, transient=True, disable=not self._terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("prompts", total=totals.prompts, completed=totals.already, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def show(self, running: int) -> None:
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        totals = self._totals
        done = totals.already + totals.answered + len(totals.failed)
        state = f"{output.counted(running, 'text')} at once, {output.number(totals.rate)} tok/s"
        if self._terminal:
            self._bar.update(self._task, completed=done, state=state)
        else:
            output.note(f"{done} of {totals.prompts} prompts · {state}")
