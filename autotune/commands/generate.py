"""`autotune generate`: continues a prompt, printing text as it is generated."""

import sys
from pathlib import Path

import click

from autotune import UserError
from autotune.commands import loading, options, output
from autotune.commands.conversation import chat_tokens


@click.command()
@options.model_argument
@click.option("-p", "--prompt", required=True, metavar="TEXT", help="Prompt; - reads it from stdin.")
@click.option(
    "--chat/--raw",
    "as_chat",
    default=False,
    help="Put TEXT as a question through the model's chat template, or complete it as it is.  [default: raw]",
)
@options.sampling_options(temperature=0.0, top_k=0, top_p=1.0, tokens=128)
@options.nvtx_option
@options.device_option
@options.threads_option
@options.db_option
@options.json_option
def generate(
    model: Path, prompt: str, as_chat: bool, tokens: int, temperature: float, top_k: int, top_p: float,
    seed: int | None, context: int | None, untuned: bool, nvtx: bool, device: str, db_path: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write text after a prompt, streaming it.

    Only what the model writes goes to stdout; speed and the source of its kernels go to stderr.

    \b
    Example:
      autotune generate model.gguf -p "The capital of France is" -n 32
      autotune generate model.gguf --chat -p "Name three rivers." --temperature 0.7
    """
    from model.sampling import Sampler

    sampler = Sampler(temperature, top_k, top_p, seed)
    text = _standard_input() if prompt == "-" else prompt
    if not text:
        raise UserError("the prompt is empty; give some text with -p, or -p - and text on stdin")
    engine = loading.load_model(model, device, db_path, context, untuned, nvtx)
    if as_chat and engine.chat.note:
        output.note(engine.chat.note)
    start = _tokens(engine, text, as_chat)
    pieces: list[str] = []
    first_token_s = None
    interrupted: KeyboardInterrupt | None = None
    try:
        for piece in engine.generate(start, tokens, sampler):
            first_token_s = first_token_s or loading.since_process_start()
            pieces.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        interrupted = interrupt  # what was written is kept, and reported like any other text
    written = "".join(pieces)
    if as_json:
        timing = engine.timing
        document = {
            "model": str(model),
            "device": device,
            "prompt": text,
            "text": written,
            "interrupted": interrupted is not None,
            "tokens": {"prompt": timing.prompt_tokens, "text": timing.tokens},
            "timings": loading.rates(timing) | {"load_s": engine.load_s, "first_token_s": first_token_s},
            "kernels": loading.kernels_document(engine),
        }
        output.print_json(document)
    elif written and not written.endswith("\n"):
        click.echo()
    output.note(loading.speed_line(engine.timing))
    output.note(loading.kernels_line(engine, model, untuned))
    engine.close()
    if interrupted is not None:
        raise interrupted


def _tokens(engine, text: str, as_chat: bool) -> list[int]:
    return chat_tokens(engine, [{"role": "user", "content": text}]) if as_chat else engine.tokenizer.encode(text)


def _standard_input() -> str:
    """All of stdin without the newline that ends it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError("the prompt on stdin is not UTF-8 text; convert it first, for example with iconv") from None
