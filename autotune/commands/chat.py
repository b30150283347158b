"""`autotune chat`: holds a conversation in the terminal, or with lines from a pipe."""

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from autotune import UserError
from autotune.commands import loading, options, output
from autotune.commands.conversation import Conversation
from autotune.commands.errors import one_line
from autotune.commands.signals import Ended

COMMAND = re.compile(r"/[A-Za-z?-]*")  # alone in its line; "/etc/hosts" and "/x is what?" are messages
COMMANDS = {
    "/help": "these lines",
    "/clear": "forget the conversation and start over; /reset does the same",
    "/exit": "end, as Ctrl-D does",
}

SAMPLING = {"temperature": 0.7, "top_k": 40, "top_p": 0.95}


@click.command()
@options.model_argument
@click.option("--system", metavar="TEXT", help="Instructions ahead of the conversation.  [default: the template's own]")
@options.template_option
@options.sampling_options(SAMPLING, tokens=512)
@options.speculate_option
@options.device_option
@options.gpu_memory_option
@options.cache_option
@options.threads_option
@options.db_option
def chat(
    model: Path, system: str | None, template_args: dict[str, Any], tokens: int, temperature: float | None,
    top_k: int | None, top_p: float | None, seed: int | None, context: int | None, untuned: bool, speculate: str,
    device: str, gpu_memory: int | None, cache: str, db_path: Path | None,
) -> None:  # fmt: skip
    """Keep a conversation with a model.

    It is put into the chat template of the model's own file. /help lists what else can be typed: /clear starts over,
    /exit or Ctrl-D ends. Ctrl-C stops the answer. Lines may also come from a pipe. When the conversation outgrows the
    context, its oldest turns are dropped.

    \b
    Example:
      autotune chat model.gguf --system "Answer in one sentence."
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    loading.check_sampling(given, seed)
    engine = loading.load_model(
        model, device, db_path, context, untuned, gpu_memory=gpu_memory, speculate=speculate, cache=cache
    )  # fmt: skip
    sampler = loading.sampler_for(engine, given, SAMPLING, seed)
    loading.note_template(engine, template_args)
    talk = Conversation(engine, system, reserve=min(tokens, engine.context // 4), variables=template_args)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        output.note(loading.kernels_line(engine, model, untuned))
        output.note(f"{model.name}, a context of {engine.context} tokens; type a message, or /help")
    while (line := _next_line(interactive)) is not None:
        if line == "/exit":
            break
        if not line:
            continue
        try:
            if COMMAND.fullmatch(line):
                _command(line, talk)
                continue
            _answer(talk, line, tokens, sampler, speculate)
        except Exception as error:
            # In a terminal a message that is too long costs that message; in a pipe there is no one to repeat it.
            if not interactive or isinstance(error, OSError) or (text := one_line(error)) is None:
                raise
            output.note(f"autotune: error: {text}")
            continue
        if interactive and engine.timing.tokens:
            output.note(loading.speed_line(engine.timing))
    if not interactive:
        output.note(loading.kernels_line(engine, model, untuned))
    engine.close()


def _command(line: str, talk: Conversation) -> None:
    """Do what a line asks that is not for the model. Raises UserError for a command that there is not."""
    if line == "/help":
        for name, meaning in COMMANDS.items():
            output.note(f"{name:<7} {meaning}")
    elif line in ("/clear", "/reset"):
        talk.reset()
        output.note("the conversation starts over")
    else:
        raise UserError(f"no command is called {line}; there are {', '.join(COMMANDS)}")


def _next_line(interactive: bool) -> str | None:
    """The user's next message, without surrounding blanks; None at the end."""
    while interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() edits lines once this is imported)
        try:
            return input("> ").strip()
        except EOFError:
            click.echo()
            return None
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Ended):
                raise
            output.note("\n/exit or Ctrl-D ends the conversation")
    line = sys.stdin.readline()
    return line.strip() if line else None


def _answer(talk: Conversation, question: str, tokens: int, sampler, speculate: str) -> None:
    """Stream one answer to stdout and keep it, as far as it came when Ctrl-C stops it."""
    pieces: list[str] = []
    asked = stopped = False
    try:
        prompt, dropped = talk.ask(question)
        asked = True
        if dropped:
            output.note(f"the conversation outgrew the context: dropped its oldest {_turns(dropped)}")
        for piece in talk.model.generate(prompt, tokens, sampler, speculate=speculate):
            pieces.append(piece)
            click.echo(piece, nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Ended):
            raise
        stopped = True
        output.note(" [stopped]")
    finally:
        if asked:
            talk.answered("".join(pieces))
    if pieces and not pieces[-1].endswith("\n"):
        click.echo()
    if not stopped and (why := loading.why_it_stopped(talk.model, tokens)):
        output.note(f"[{why}]")


def _turns(count: int) -> str:
    return "turn" if count == 1 else f"{count} turns"
